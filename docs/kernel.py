"""What a page's kernel imports first: it shows pictures twice, for the light scheme and for the dark one."""

import base64
import io
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib
import numpy as np
from IPython.core.getipython import get_ipython
from IPython.display import Image
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import (
    Colormap,
    LinearSegmentedColormap,
    same_color,
    to_rgba_array,
)
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from dds import plots
from dds._drawing import BLUE

_SKY = "#56B4E9"  # of the same palette as `BLUE`, which is dim on a dark page
_INK, _PAPER = "#c9d1de", "#1e2229"  # of the theme's dark scheme
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


def _from_paper(colours: Colormap) -> Colormap:
    """The same hues the other way round, for a map that starts at white: light is much where the paper is dark."""
    if min(colours(0.0)[:3]) < 0.9:
        return colours
    hues = [_PAPER, *colours(np.linspace(1.0, 0.1, 10))]
    return LinearSegmentedColormap.from_list("from paper", hues, colours.N)


def _recolour(surface: Any) -> None:
    """The colours of facets are given one by one: each is looked up in the map that they were taken from."""
    levels, table = np.linspace(0, 1, 256), plots._colour_map()
    apart = surface._facecolor3d[:, None, :3] - table(levels)[None, :, :3]
    nearest = np.argmin(np.sum(apart**2, axis=2), axis=1)
    surface.set_facecolor(_from_paper(table)(levels[nearest]))


def _is_blue(artist: Any) -> bool:
    if not isinstance(artist, Line2D | Patch | PathCollection):
        return False
    colour = (
        artist.get_color()
        if isinstance(artist, Line2D)
        else artist.get_facecolor()
    )
    return any(same_color(one[:3], BLUE) for one in to_rgba_array(colour))


def _both(figure, include=None, exclude=None):
    light = _png(figure)
    for artist in figure.findobj():
        if isinstance(artist, Poly3DCollection):
            _recolour(artist)
        elif (
            isinstance(artist, ScalarMappable)
            and artist.get_array() is not None
        ):
            artist.set_cmap(_from_paper(artist.get_cmap()))
    for artist in figure.findobj(_is_blue):
        artist.set(color=_SKY)
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
        if axes.name == "3d":
            for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
                axis.line.set_color("0.5")
                axis._axinfo["grid"]["color"] = "0.3"
    return {
        "image/png;light": light,
        "image/png;dark": _png(figure),
        "text/plain": "figure",
    }


def _animate_both(path, *positional, _animate=plots.animate, **named):
    _animate(path, *positional, **named)
    light = plots._colour_map

    def dark(bands=None):
        return _from_paper(light(bands))

    with matplotlib.rc_context(_DARK), patch.object(plots, "_colour_map", dark):
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
