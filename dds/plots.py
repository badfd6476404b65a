r"""Pictures of a target in two coordinates, of samples of it, and of how a sampler learns and moves.

The density of a plane is a `Grid`, made by `density_grid` where the density is known and by `histogram_grid` from
samples where it is not. Every other function draws one picture and returns it as a `matplotlib.figure.Figure`, to be
saved by its method `savefig`, shown as the last line of a notebook cell, or changed through its `axes`; `animate`
writes a file.

Needs the packages matplotlib and pillow, which the rest of the library does not. No state of `pyplot` is touched: there
is nothing to close, and no display is needed.
"""

from os import PathLike
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from PIL import Image

from dds._drawing import BLUE, DOTS_PER_INCH, ORANGE, SIZE, VERMILION, add_legend, plain_axes, symbol
from dds.checks import require, typed
from dds.types import LogDensity

Interval: TypeAlias = tuple[float | int, float | int]
"""The lower and the upper end of an axis."""

Labels: TypeAlias = tuple[str, str]
"""The names of two coordinates: `x_1` and `\\log v` are set as mathematics, words as they are."""


class Grid(NamedTuple):
    """A density on a rectangle of equal cells, which integrates as `density.sum()` times the area of a cell.

    Attributes:
        x: The centres of the columns, increasing.
        y: The centres of the rows, increasing.
        density: The mean density of each cell; its first axis is `y`.
    """

    x: Float[np.ndarray, " columns"]
    y: Float[np.ndarray, " rows"]
    density: Float[np.ndarray, "rows columns"]


@typed
def limits(
    samples: Float[Array | np.ndarray, "samples 2"], *, coverage: float | int = 0.99, margin: float | int = 0.05
) -> tuple[Interval, Interval]:
    """The ranges of two axes that show the central share of the points, however far the others are.

    Args:
        samples: Two coordinates of each sample; those that are not finite do not count.
        coverage: The share of the points within the range of either coordinate, before the margin is added; in (0, 1].
        margin: What is added at either end, as a fraction of the range; at least 0.

    Returns:
        The ranges of the first and the second coordinate: what `density_grid` and `histogram_grid` take.

    Raises:
        ValueError: If `coverage` or `margin` is out of its range, or no sample is finite.

    Example:
        >>> x_limits, y_limits = limits(
        ...     np.array([[0.0, 5.0], [1.0, 7.0]]), coverage=1.0, margin=0.0
        ... )
        >>> x_limits, y_limits
        ((0.0, 1.0), (5.0, 7.0))
    """
    require(0 < coverage <= 1, "coverage", coverage, "in (0, 1]")
    require(0 <= margin < float("inf"), "margin", margin, "at least 0 and finite")
    points = np.asarray(samples, dtype=np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    require(len(points) > 0, "samples", f"{len(samples)} of which none is", "finite")

    tail = (1 - coverage) / 2
    low, high = np.quantile(points, [tail, 1 - tail], axis=0)
    # A coordinate that never varies still needs an axis around its value.
    width = np.where(high > low, high - low, np.maximum(1.0, np.abs(high)))
    padding = np.where(high > low, margin, 0.5) * width
    (x_low, y_low), (x_high, y_high) = (low - padding).tolist(), (high + padding).tolist()
    return (x_low, x_high), (y_low, y_high)


@typed
def density_grid(
    log_density: LogDensity,
    x_limits: Interval,
    y_limits: Interval,
    *,
    log_z: float | int | None = None,
    points: int = 200,
    subdivisions: int = 4,
) -> Grid:
    r"""A density of two coordinates on a grid, $\gamma(x) / Z$.

    Each cell holds the mean of `subdivisions` x `subdivisions` points inside it, so that a ridge thinner than a cell,
    as the neck of the funnel, does not fall between the points.

    Args:
        log_density: The log density, of points of shape `(2,)`.
        x_limits: The ends of the first axis.
        y_limits: The ends of the second axis.
        log_z: The log normalising constant, as `Target.log_z` has it. By default what makes the grid integrate to one.
        points: The number of rows, and of columns; at least 2.
        subdivisions: The number of points to a side of a cell; at least 1.

    Returns:
        The grid.

    Raises:
        ValueError: If limits do not increase, `points` is below 2, `subdivisions` is below 1, or the log density is
            not a scalar, is NaN or +infinity at some point or -infinity at all of them.

    Example:
        >>> grid = density_grid(
        ...     lambda x: -0.5 * jnp.sum(x**2), (-6, 6), (-6, 6), points=50
        ... )
        >>> grid.density.shape, round(float(grid.density.max()) * 2 * np.pi, 2)
        ((50, 50), 0.98)
    """
    require(points >= 2, "points", points, "at least 2")
    require(subdivisions >= 1, "subdivisions", subdivisions, "at least 1")
    fine_x, fine_y = (_centres(ends, name, points * subdivisions) for ends, name in _named(x_limits, y_limits))

    def row(y: Float[Array, ""]) -> Float[Array, "..."]:
        return jax.vmap(lambda x: log_density(jnp.stack([x, y])))(jnp.asarray(fine_x))

    # Rows one by one: the whole of a fine grid at once can be too much for a density that looks at data.
    values = np.asarray(jax.jit(lambda rows: jax.lax.map(row, rows))(jnp.asarray(fine_y)), dtype=np.float64)
    require(values.ndim == 2, "the value of log_density", f"an array of shape {values.shape[2:]}", "a scalar")
    bad = np.isnan(values) | np.isposinf(values)
    require(not bad.any(), "log_density", f"NaN or +infinity at {bad.sum()} of {bad.size} points", "below infinity")
    top = values.max()
    require(bool(np.isfinite(top)), "log_density", "-infinity at all points", "finite somewhere within the limits")

    cells = np.exp(values - top).reshape(points, subdivisions, points, subdivisions).mean(axis=(1, 3))
    x, y = (_centres(ends, name, points) for ends, name in _named(x_limits, y_limits))
    return Grid(x, y, _integrate_to_one(cells, x_limits, y_limits) if log_z is None else cells * np.exp(top - log_z))


@typed
def histogram_grid(
    samples: Float[Array | np.ndarray, "samples 2"],
    x_limits: Interval,
    y_limits: Interval,
    *,
    log_weights: Float[Array | np.ndarray, " samples"] | None = None,
    bins: int = 80,
    bandwidth: float | int = 1.0,
) -> Grid:
    """The density of two coordinates of samples, as a smoothed histogram that integrates to one within the limits.

    For targets in more dimensions, whose density in a plane is not known.

    Args:
        samples: Two coordinates of each sample; those out of the limits do not count.
        x_limits: The ends of the first axis.
        y_limits: The ends of the second axis.
        log_weights: Log weights of the samples, if these are weighted.
        bins: The number of rows, and of columns; at least 2.
        bandwidth: The standard deviation, in bins, of the Gaussian kernel that smooths the counts; at least 0.

    Returns:
        The grid.

    Raises:
        ValueError: If limits do not increase, `bins` is below 2, `bandwidth` is below 0, a log weight is NaN or
            +infinity or no weight falls within the limits.

    Example:
        >>> grid = histogram_grid(
        ...     np.zeros((7, 2)), (-1, 1), (-1, 1), bins=5, bandwidth=0
        ... )
        >>> float(grid.density[2, 2] * 0.4**2)
        1.0
    """
    require(bins >= 2, "bins", bins, "at least 2")
    require(0 <= bandwidth < float("inf"), "bandwidth", bandwidth, "at least 0 and finite")
    x, y = (_centres(ends, name, bins) for ends, name in _named(x_limits, y_limits))
    points = np.asarray(samples, dtype=np.float64)
    logs = np.zeros(len(points)) if log_weights is None else np.asarray(log_weights, dtype=np.float64)
    bad = np.isnan(logs) | np.isposinf(logs)
    require(not bad.any(), "log_weights", f"NaN or +infinity at {bad.sum()} of {bad.size} samples", "below infinity")

    inside = np.isfinite(logs) & _within(points, x_limits, y_limits)
    require(bool(inside.any()), "samples", f"{len(points)} of which none is", "within the limits with a weight above 0")
    weights = np.exp(logs[inside] - logs[inside].max())
    edges = [np.linspace(*ends, bins + 1) for ends in (y_limits, x_limits)]
    counts, _, _ = np.histogram2d(points[inside, 1], points[inside, 0], bins=edges, weights=weights)

    distance = np.subtract.outer(np.arange(bins), np.arange(bins))
    kernel = np.exp(-0.5 * (distance / bandwidth) ** 2) if bandwidth > 0 else np.eye(bins)
    # Columns that sum to one keep the mass of the bins at the border within the limits.
    kernel /= kernel.sum(axis=0)
    return Grid(x, y, _integrate_to_one(kernel @ counts @ kernel.T, x_limits, y_limits))


@typed
def scatter(
    samples: Float[Array | np.ndarray, "samples 2"],
    reference: Float[Array | np.ndarray, "references 2"] | None = None,
    *,
    x_limits: Interval | None = None,
    y_limits: Interval | None = None,
    labels: Labels = ("x_1", "x_2"),
    names: tuple[str, str] = ("sampler", "exact"),
) -> Figure:
    """Samples over exact ones, on the same axes; the legend counts them, and those that the axes leave out.

    Args:
        samples: Two coordinates of the sampler's draws.
        reference: The same coordinates of exact samples, if there are any.
        x_limits: The ends of the first axis; by default the `limits` of the reference or, without one, of the samples.
        y_limits: The ends of the second axis; by default likewise.
        labels: The names of the coordinates.
        names: The names of the samples and of the reference.

    Returns:
        The picture.

    Raises:
        ValueError: If limits do not increase, or have to be found and no point is finite.

    Example:
        >>> figure = scatter(np.zeros((3, 2)), np.ones((4, 2)))
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['exact (4)', 'sampler (3, 3 outside)']
    """
    figure, axes = plain_axes(labels)
    if x_limits is None or y_limits is None:
        x_default, y_default = limits(samples if reference is None else reference)
        x_limits, y_limits = x_limits or x_default, y_limits or y_default
    for ends, name in _named(x_limits, y_limits):
        _check_interval(ends, name)
    axes.set(xlim=x_limits, ylim=y_limits)

    for points, name, colour in ((reference, names[1], ORANGE), (samples, names[0], BLUE)):
        if points is None:
            continue
        points = np.asarray(points, dtype=np.float64)
        outside = len(points) - int(_within(points, x_limits, y_limits).sum())
        count = f"{len(points)}, {outside} outside" if outside else f"{len(points)}"
        _draw_points(axes, points, colour, size=9, alpha=0.55, label=f"{name} ({count})")
    add_legend(axes)
    return figure


@typed
def heat_map(
    grid: Grid,
    samples: Float[Array | np.ndarray, "samples 2"] | None = None,
    *,
    decades: float | int | None = 4,
    labels: Labels = ("x_1", "x_2"),
) -> Figure:
    """The density by colour, with a colour bar, and samples over it.

    Args:
        grid: The density.
        samples: Two coordinates of samples, if any are to be drawn.
        decades: How many powers of ten below its maximum a logarithmic scale reaches: the funnel's mouth lies two to
            four below its neck. `None` for a linear scale.
        labels: The names of the coordinates.

    Returns:
        The picture.

    Raises:
        ValueError: If `decades` is not positive, or the grid's shapes do not agree or its density is negative, not
            finite or zero everywhere.

    Example:
        >>> grid = density_grid(
        ...     lambda x: -0.5 * jnp.sum(x**2), (-3, 3), (-3, 3), points=20
        ... )
        >>> len(heat_map(grid, np.zeros((5, 2))).axes)
        2
    """
    figure, axes = plain_axes(labels)
    image = _draw_density(axes, grid, decades)
    bar = figure.colorbar(image, ax=axes, extend="neither" if decades is None else "min", pad=0.02, aspect=30)
    bar.set_label("density")
    outline: Any = bar.outline  # of another type in the stubs of each matplotlib
    outline.set_visible(False)
    if samples is not None:
        _draw_points(axes, samples, VERMILION, size=7, alpha=0.7)
    return figure


@typed
def surface(
    grid: Grid,
    *,
    decades: float | int | None = None,
    labels: Labels = ("x_1", "x_2"),
) -> Figure:
    """The density as a landscape; a grid of 200 x 200 takes about two seconds.

    Args:
        grid: The density.
        decades: As in `heat_map`, for the height and the colour.
        labels: The names of the coordinates.

    Returns:
        The picture.

    Raises:
        ValueError: As in `heat_map`.

    Example:
        >>> grid = density_grid(
        ...     lambda x: -0.5 * jnp.sum(x**2), (-3, 3), (-3, 3), points=20
        ... )
        >>> surface(grid).axes[0].name
        '3d'
    """
    density, norm = _check_density(grid, decades)
    figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH)
    # mplot3d declares no types, and those inferred are wrong.
    axes: Any = Axes3D(figure, (0.0, 0.06, 0.97, 0.94))
    figure.add_axes(axes)
    x, y = np.meshgrid(grid.x, grid.y)
    height = density if decades is None else np.log10(density)
    # From a quarter of the map up: white land is lost on a white page.
    colours = _colour_map()(0.25 + 0.75 * norm(density))
    # The colour of a facet is that of its corner; the mean of all four leaves both sides of a ridge alike.
    colours[:-1, :-1] = (colours[:-1, :-1] + colours[1:, :-1] + colours[:-1, 1:] + colours[1:, 1:]) / 4
    axes.plot_surface(
        x, y, height, facecolors=colours, rstride=1, cstride=1, linewidth=0, antialiased=False, shade=False
    )
    axes.set(xlabel=symbol(labels[0]), ylabel=symbol(labels[1]), xmargin=0, ymargin=0)
    axes.set_zlabel("density" if decades is None else r"$\log_{10}$ density", labelpad=8)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_pane_color((1.0, 1.0, 1.0, 0.0))
    axes.view_init(elev=35, azim=-60)
    axes.set_box_aspect((1.2, 1.0, 0.65), zoom=1.12)
    return figure


@typed
def training_history(
    losses: Float[Array | np.ndarray, " updates"],
    *,
    log_z: float | int | None = None,
    window: int | None = None,
    bound: str = "ELBO",
) -> Figure:
    r"""The evidence lower or upper bound against the updates of training.

    The range of the bound is that of the last nine tenths of the updates, without the extremes: the first ones can be
    wild.

    Args:
        losses: The loss at each update, `Fit.losses`. Entries that are not finite are left out, and the legend says how
            many.
        log_z: The true log normalising constant, drawn as a line, if it is known.
        window: The number of updates in the running mean; by default a fiftieth of all.
        bound: What the losses are: `"ELBO"`, the lower bound with its sign changed, as of `dds.losses.reverse_kl`, or
            `"EUBO"`, the upper bound, as of `dds.losses.forward_kl`.

    Returns:
        The picture.

    Raises:
        ValueError: If no loss is finite, `window` is below 1 or `bound` is neither of the two.

    Example:
        >>> figure = training_history(np.array([3.0, np.nan, 2.0]), log_z=0.0, window=2)
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['each update (1 not finite, left out)', 'running mean of 2', 'true $\\log\\,Z$']
    """
    require(bound in ("ELBO", "EUBO"), "bound", repr(bound), "'ELBO' or 'EUBO'")
    values = np.asarray(losses, dtype=np.float64) * (1 if bound == "EUBO" else -1)
    finite = np.isfinite(values)
    require(bool(finite.any()), "losses", f"{values.size} of which none is", "finite")
    window = max(1, values.size // 50) if window is None else window
    require(window >= 1, "window", window, "at least 1")
    window = min(window, values.size)

    update = np.arange(1, values.size + 1)[finite]
    raw, mean = values[finite], _running_mean(values, finite, window)[finite]
    late = raw[update > values.size // 10] if (update > values.size // 10).any() else raw
    low, high = np.quantile(late, [0.01, 0.99])
    if log_z is not None:
        low, high = min(low, log_z), max(high, log_z)
    padding = 0.08 * (high - low) or 0.5

    figure, axes = plain_axes(("update", f"evidence {'upper' if bound == 'EUBO' else 'lower'} bound"))
    left_out = f" ({values.size - len(raw)} not finite, left out)" if len(raw) < values.size else ""
    # Values far out of the picture overflow the renderer's integers.
    far = 100 * (high - low + padding)
    raw, mean = (np.clip(line, low - far, high + far) for line in (raw, mean))
    axes.plot(update, raw, color=BLUE, linewidth=0.6, alpha=0.35, label=f"each update{left_out}")
    axes.plot(update, mean, color=BLUE, linewidth=1.8, label=f"running mean of {window}")
    if log_z is not None:
        axes.axhline(log_z, color=VERMILION, linewidth=1.3, linestyle=(0, (5, 3)), label=r"true $\log\,Z$")
    axes.set_xlim(0, values.size + 1)
    axes.set_ylim(low - padding, high + padding)
    add_legend(axes)
    return figure


@typed
def animate(
    path: str | PathLike,
    states: Float[Array | np.ndarray, "frames particles 2"],
    grid: Grid,
    *,
    decades: float | int | None = 4,
    labels: Labels = ("x_1", "x_2"),
    frames_per_second: float | int = 12,
    hold: float | int = 3.0,
) -> None:
    """Writes an animated GIF of particles that move over the density, from `y_0` to `y_K`.

    Args:
        path: The file to write.
        states: Two coordinates of each particle in each frame.
        grid: The density; its rectangle is what the picture shows.
        decades: As in `heat_map`.
        labels: The names of the coordinates.
        frames_per_second: The speed, in (0, 50]; a GIF rounds the time of a frame to hundredths of a second.
        hold: How many seconds the last frame stays; at least 0.

    Raises:
        ValueError: If there is no frame, `frames_per_second` or `hold` is out of its range; for the grid as in
            `heat_map`.

    Example:
        >>> import tempfile
        >>> grid = density_grid(
        ...     lambda x: -0.5 * jnp.sum(x**2), (-3, 3), (-3, 3), points=20
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     animate(f"{folder}/particles.gif", np.zeros((3, 5, 2)), grid)
        ...     with Image.open(f"{folder}/particles.gif") as animation:
        ...         animation.n_frames
        3
    """
    steps = len(states) - 1
    require(steps >= 0, "the number of frames", len(states), "at least 1")
    require(0 < frames_per_second <= 50, "frames_per_second", frames_per_second, "in (0, 50]")
    require(0 <= hold < float("inf"), "hold", hold, "at least 0 and finite")

    figure, axes = plain_axes(labels, size=(5.2, 4.0), dots_per_inch=100)
    # Flat bands of colour: a GIF has few colours, and equal neighbours take no room.
    _draw_density(axes, grid, decades, bands=12)
    points = _draw_points(axes, np.asarray(states)[0], VERMILION, size=8, alpha=0.8)
    corner = axes.text(0.98, 0.97, "", transform=axes.transAxes, ha="right", va="top")
    for artist in (points, corner):
        artist.set_animated(True)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for step, positions in enumerate(np.asarray(states)):
        canvas.restore_region(background)
        points.set_offsets(positions)
        corner.set_text(f"step {step} of {steps}")
        axes.draw_artist(points)
        axes.draw_artist(corner)
        frames.append(Image.fromarray(np.array(canvas.buffer_rgba())[..., :3]))

    palette = frames[-1].quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [round(1000 / frames_per_second)] * steps + [round(1000 * hold + 1000 / frames_per_second)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _named(x_limits: Interval, y_limits: Interval) -> tuple[tuple[Interval, str], tuple[Interval, str]]:
    return (x_limits, "x_limits"), (y_limits, "y_limits")


def _check_interval(ends: Interval, name: str) -> None:
    require(bool(-np.inf < ends[0] < ends[1] < np.inf), name, ends, "finite and increasing")


def _centres(ends: Interval, name: str, cells: int) -> Float[np.ndarray, " cells"]:
    _check_interval(ends, name)
    return ends[0] + (ends[1] - ends[0]) * (np.arange(cells) + 0.5) / cells


def _within(points: np.ndarray, x_limits: Interval, y_limits: Interval) -> np.ndarray:
    (low, high) = np.transpose([x_limits, y_limits])
    return ((low <= points) & (points <= high)).all(axis=1)


def _integrate_to_one(cells: np.ndarray, x_limits: Interval, y_limits: Interval) -> np.ndarray:
    area = (x_limits[1] - x_limits[0]) * (y_limits[1] - y_limits[0]) / cells.size
    return cells / (cells.sum() * area)


def _running_mean(values: np.ndarray, counted: np.ndarray, window: int) -> np.ndarray:
    """The mean of the counted values among the `window` around each one, fewer at the ends."""
    box = np.ones(window)
    total, count = (np.convolve(v, box, mode="same") for v in (np.where(counted, values, 0.0), counted.astype(float)))
    return total / np.maximum(count, 1)


def _draw_points(
    axes: Axes, points: Any, colour: str, *, size: float | int, alpha: float | int, label: str | None = None
) -> PathCollection:
    x, y = np.asarray(points, dtype=np.float64).T
    return axes.scatter(x, y, s=size, color=colour, alpha=alpha, linewidths=0, label=label, zorder=3)


def _colour_map(bands: int | None = None) -> Colormap:
    return colormaps["Blues"].resampled(bands or 256)


def _check_density(grid: Grid, decades: float | int | None) -> tuple[np.ndarray, Normalize]:
    """The density, raised to the bottom of the colour scale where it is below, and that scale."""
    shapes = (np.shape(grid.y) + np.shape(grid.x), np.shape(grid.density))
    require(
        shapes[0] == shapes[1], "the shape of grid.density", shapes[1], f"{shapes[0]}, the numbers of rows and columns"
    )
    density = np.asarray(grid.density, dtype=np.float64)
    proper = bool(np.isfinite(density).all() and density.min() >= 0 and density.max() > 0)
    require(proper, "grid.density", density, "finite, at least 0 and somewhere positive")
    if decades is None:
        return density, Normalize(0, density.max())
    require(0 < decades < float("inf"), "decades", decades, "positive and finite, or None")
    bottom = density.max() / 10.0**decades
    return np.maximum(density, bottom), LogNorm(bottom, density.max())


def _draw_density(axes: Axes, grid: Grid, decades: float | int | None, bands: int | None = None) -> AxesImage:
    density, norm = _check_density(grid, decades)
    x, y = (np.asarray(centres, dtype=np.float64) for centres in (grid.x, grid.y))
    half_x, half_y = (0.5 * (centres[-1] - centres[0]) / max(1, centres.size - 1) for centres in (x, y))
    extent = (x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y)
    axes.grid(visible=False)
    axes.autoscale(enable=False)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    return axes.imshow(
        density,
        extent=extent,
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        cmap=_colour_map(bands),
        norm=norm,
    )
