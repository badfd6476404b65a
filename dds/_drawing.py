"""What all pictures share: colours, plain axes, a legend, and names that are set as mathematics."""

import re

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart; the map of densities runs from white, so that it prints.
BLUE, ORANGE, VERMILION = "#0072B2", "#E69F00", "#D55E00"
DOTS_PER_INCH = 110
SIZE = (6.4, 4.6)


def symbol(name: str) -> str:
    """Sets a symbol with its subscripts as mathematics, and leaves words alone."""
    if not re.fullmatch(r"(\\[A-Za-z]+ ?)*[A-Za-z]?([_^](\w+|\{.*\}))*", name) or not name:
        return name
    braced = re.sub(r"([_^])(\w+)", r"\1{\2}", name)
    return f"${braced}$"


def plain_axes(
    labels: tuple[str, str], size: tuple[float, float] = SIZE, dots_per_inch: int = DOTS_PER_INCH
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=dots_per_inch, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(symbol(labels[0]))
    axes.set_ylabel(symbol(labels[1]))
    make_plain(axes)
    return figure, axes


def make_plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color("0.5")
    axes.tick_params(color="0.5")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def add_legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing."""
    place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": 2, "frameon": False, "borderaxespad": 0.2}
    for handle in axes.legend(**place, markerscale=2, columnspacing=1.5, handletextpad=0.5).legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
