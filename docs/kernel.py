"""What a page's kernel imports first: it shows pictures twice, for the light scheme and for the dark one."""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib
from IPython.core.getipython import get_ipython
from IPython.display import Image
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from dds import plots

_INK, _PAPER = "#c9d1de", "#1e2029"  # of the theme's dark scheme
_DARK: Any = {
    **dict.fromkeys(
        (
            "text.color",
            "axes.labelcolor",
            "xtick.labelcolor",
            "ytick.labelcolor",
        ),
        _INK,
    ),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), _PAPER),
}


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, transparent=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _both(figure, include=None, exclude=None):
    light = _png(figure)
    for text in figure.findobj(Text):
        text.set_color(_INK)
    for legend in figure.findobj(Legend):
        legend.get_frame().set_facecolor("none")
    for axes in figure.axes:
        axes.tick_params(which="both", color="0.5", labelcolor=_INK)
        for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
            line.set_color("0.3")
        for spine in axes.spines.values():
            spine.set_edgecolor("0.5")
    return {
        "image/png;light": light,
        "image/png;dark": _png(figure),
        "text/plain": "figure",
    }


def _animate_both(path, *positional, _animate=plots.animate, **named):
    _animate(path, *positional, **named)
    with matplotlib.rc_context(_DARK):
        _animate(f"dark-{path}", *positional, **named)


def _both_animations(image, include=None, exclude=None):
    dark = Path(f"dark-{image.filename}").read_bytes()
    gifs = {"image/gif;light": image.data, "image/gif;dark": dark}
    return {
        kind: base64.b64encode(gif).decode() for kind, gif in gifs.items()
    } | {"text/plain": "animation"}


plots.animate = _animate_both
shell: Any = get_ipython()
shell.display_formatter.mimebundle_formatter.for_type(Figure, _both)
shell.display_formatter.mimebundle_formatter.for_type(Image, _both_animations)
