"""What a page's kernel does first: it shows figures twice, for the light scheme and for the dark one."""

import base64
import io
from typing import Any

from IPython.core.getipython import get_ipython
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

_INK = "#c9d1de"


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
    return {"image/png;light": light, "image/png;dark": _png(figure), "text/plain": "figure"}


shell: Any = get_ipython()
shell.display_formatter.mimebundle_formatter.for_type(Figure, _both)
