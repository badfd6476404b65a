"""Pictures of a result in any number of coordinates: where its samples lie, and what its weights are like.

Needs the package matplotlib, as `dds.plots` does.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from dds import estimators, plots, results
from dds._drawing import BLUE, DOTS_PER_INCH, SIZE, VERMILION, add_legend, make_plain, plain_axes, symbol
from dds.checks import require, typed
from dds.results import Draws, Result
from dds.types import Arrays, LogWeights

MOST = 6
"""The most coordinates of a corner plot, where none are chosen."""


@typed
def columns(samples: Any) -> tuple[list[str], Float[np.ndarray, "samples dim"]]:
    """Samples as columns of numbers with names: those of the leaves, with an index where a leaf has several numbers.

    Args:
        samples: The samples, in the structure of the user's parameters: each leaf has them along its first axis.

    Returns:
        The names and the columns.

    Example:
        >>> names, numbers = columns({"mu": np.zeros(5), "theta": np.ones((5, 2))})
        >>> names, numbers.shape
        (['mu', 'theta[0]', 'theta[1]'], (5, 3))
    """
    names, parts = [], []
    for name, leaf in results.named(samples).items():
        leaf = np.asarray(leaf, np.float64)
        indices = [",".join(map(str, index)) for index in np.ndindex(leaf.shape[1:])]
        names += [f"{name}[{index}]" if index else name for index in indices]
        parts.append(leaf.reshape(len(leaf), -1))
    return names, np.concatenate(parts, axis=1)


@typed
def corner(result: Result | Draws, *, names: Sequence[str] | None = None, bins: int = 40) -> Figure:
    """A corner plot: weighted marginals, of each coordinate on the diagonal, of each pair below it.

    The axes reach over what 98 % of the weight of each coordinate lies in; the colour grows with the square root of
    the mass, so that faint parts show.

    Args:
        result: The result, or weighted samples.
        names: The coordinates, by their names in `columns`; by default the first `MOST`.
        bins: The number of bins of an axis, at least 2.

    Returns:
        The picture.

    Raises:
        ValueError: If there is no such coordinate, or there are fewer bins.

    Example:
        >>> import dds
        >>> import jax
        >>> import jax.numpy as jnp
        >>> log_density = lambda tree: -jnp.sum(tree["a"] ** 2) / 2
        >>> like = {"a": np.zeros(3, np.float32)}
        >>> result = dds.sample(jax.random.key(0), log_density, like, paths=100)
        >>> [axes.get_ylabel() for axes in corner(result).axes if axes.get_ylabel()]
        ['a[1]', 'a[2]']
    """
    require(bins >= 2, "bins", bins, "at least 2")
    known, numbers = columns(result.samples)
    chosen = list(known[:MOST] if names is None else names)
    for name in chosen:
        require(name in known, "names", repr(name), f"one of {', '.join(known)}")
    numbers = numbers[:, [known.index(name) for name in chosen]]
    log_weights, shares = np.asarray(result.log_weights), _shares(result.log_weights)
    reach = [_reach(column, shares) for column in numbers.T]
    count = len(chosen)
    side = 1.6 * count + 0.8
    figure = Figure(figsize=(side, side), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(count, count, squeeze=False, sharex="col")
    for i in range(count):
        for j in range(count):
            axes = panels[i, j]
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(color="0.5", labelsize=7)
            if j > i:
                axes.set_visible(False)
            elif i == j:
                options = {"color": BLUE, "histtype": "stepfilled", "alpha": 0.75}
                axes.hist(numbers[:, i], bins=bins, range=reach[i], weights=shares, **options)
                axes.set_yticks([])
            else:
                grid = plots.histogram_grid(numbers[:, [j, i]], reach[j], reach[i], log_weights=log_weights, bins=bins)
                axes.pcolormesh(grid.x, grid.y, np.sqrt(grid.density), cmap="Blues", rasterized=True)
            if i == count - 1:
                axes.set_xlabel(symbol(chosen[j]))
            if j == 0 < i:
                axes.set_ylabel(symbol(chosen[i]))
    return figure


@typed
def weights(log_weights: LogWeights) -> Figure:
    r"""How heavy the tail of weights is: the share of paths with a larger weight, against the weight, both logarithmic.

    The line has the slope $-1/k$ of a Pareto tail of the fitted shape $k$ (`dds.estimators.pareto_k`), where k is
    above zero: beyond it weights have no variance for a k above 0.5, and no mean above 1.

    Args:
        log_weights: Log weights of `dds.estimators.LEAST` or more paths.

    Returns:
        The picture.

    Raises:
        ValueError: If there are fewer, or none is above zero.

    Example:
        >>> figure = weights(
        ...     np.random.default_rng(0).normal(size=1000).astype(np.float32)
        ... )
        >>> figure.axes[0].get_legend().get_texts()[0].get_text()[:23]
        '1,000 paths, Pareto k 0'
    """
    shape, values = estimators.pareto_k(log_weights), np.asarray(log_weights, np.float64)
    values = np.sort(values[np.isfinite(values)])[::-1]
    require(values.size > 0, "log_weights", "none that is finite", "one or more")
    relative = np.exp(values - estimators.log_z(log_weights).value)
    shares = np.arange(1, values.size + 1) / log_weights.size
    figure, axes = plain_axes(("weight, over their mean", "share of paths with a larger weight"))
    axes.loglog(relative, shares, color=BLUE, linewidth=1.8, label=f"{log_weights.size:,} paths, Pareto k {shape:.2f}")
    if 0 < shape < np.inf:
        start = min(int(3 * np.sqrt(values.size)), values.size // 5)
        line = shares[start] * (relative[: start + 1] / relative[start]) ** (-1 / shape)
        style = {"color": VERMILION, "linewidth": 1.3, "linestyle": (0, (5, 3))}
        axes.loglog(relative[: start + 1], line, **style, label="a Pareto tail of this k")
    axes.set_xlim(1e-2, 2 * max(relative.max(), 1.0))
    add_legend(axes)
    return figure


@typed
def trace(result: Result) -> Figure:
    """What was tried, in order: log Z with two standard errors, and the effective sample size (ESS) of each sampler.

    The one that the result is of has another colour. Where one found less than a later one, it has missed something.

    Args:
        result: The result.

    Returns:
        The picture. Figures that are not finite are left out.

    Raises:
        ValueError: If the result knows of nothing that was tried.

    Example:
        >>> import dds
        >>> import jax
        >>> import jax.numpy as jnp
        >>> result = dds.sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100
        ... )
        >>> above, below = trace(result).axes
        >>> above.get_ylabel(), below.get_ylabel()
        ('log Z', 'ESS')
    """
    require(len(result.tried) > 0, "result.tried", "empty", "one or more")
    number = np.arange(1, len(result.tried) + 1)
    log_z, error, ess = np.transpose([(one.log_z, one.log_z_standard_error, one.ess) for one in result.tried])
    drawn = np.isfinite(log_z) & np.isfinite(error)
    own = (log_z == result.report.log_z) & (error == result.report.log_z_standard_error)
    figure = Figure(figsize=(max(SIZE[0], 1.1 * len(number)), SIZE[1]), dpi=DOTS_PER_INCH, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for which, colour, label in ((drawn & own, VERMILION, "the result"), (drawn & ~own, BLUE, "others")):
        if which.any():
            bars = {"fmt": "o", "markersize": 4, "capsize": 3, "color": colour, "label": label}
            above.errorbar(number[which], log_z[which], 2 * error[which], **bars)
    if result.report.log_z_true is not None:
        above.axhline(result.report.log_z_true, color="0.5", linewidth=1.3, linestyle=(0, (5, 3)), label="truth")
    below.bar(number, np.nan_to_num(ess), width=0.5, color=np.where(own, VERMILION, BLUE))
    for axes, name in ((above, "log Z"), (below, "ESS")):
        axes.set_ylabel(name)
        make_plain(axes)
    below.set(ylim=(0, 1), xlim=(0.4, len(number) + 0.6))
    below.set_xticks(number, [f"{textwrap.fill(one.kind, 14)}\n{one.seconds:.0f} s" for one in result.tried])
    if above.get_legend_handles_labels()[0]:
        add_legend(above)
    return figure


@typed
def populations(result: Result, points: Float[Arrays, "points dim"], *, count: int = MOST) -> Figure:
    r"""Where the weighted samples of a result differ from points that were found by other means.

    Such points are tempered particles, as of `dds.exploration.explore` or `dds.smc.temper`, or exact samples. Shown are
    the coordinates in which the two differ most, by the largest difference of their distribution functions,
    $D = \max_x \lvert F(x) - G(x) \rvert$; for as many samples of one distribution it is about the inverse of the
    square root of their number.

    Args:
        result: The result.
        points: The points, in the coordinates of the target.
        count: The most coordinates, at least 1.

    Returns:
        The picture.

    Raises:
        ValueError: If `count` is below 1, or there are no points.

    Example:
        >>> import dds
        >>> import jax
        >>> import jax.numpy as jnp
        >>> result = dds.sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=1000
        ... )
        >>> points = jax.random.normal(jax.random.key(1), (400, 2)).at[:, 1].add(3)
        >>> populations(result, points).axes[0].get_title()[:6]
        'x[1], '
    """
    require(count >= 1, "count", count, "at least 1")
    require(len(points) >= 1, "points", "none", "one or more")
    names, ours = columns(result.samples)
    _, theirs = columns(results.structured(result.target, points))
    shares = _shares(result.log_weights)
    equal = np.full(len(theirs), 1 / len(theirs))
    apart = np.array([_apart(x, shares, y, equal) for x, y in zip(ours.T, theirs.T, strict=True)])
    chosen = np.argsort(-apart, kind="stable")[:count]
    across = min(len(chosen), 3)
    down = -(-len(chosen) // across)
    figure = Figure(figsize=(2.9 * across, 2.4 * down + 0.4), dpi=DOTS_PER_INCH, layout="constrained")
    for panel, i in enumerate(chosen):
        axes = figure.add_subplot(down, across, panel + 1)
        reaches = [_reach(ours[:, i], shares), _reach(theirs[:, i], equal)]
        options: Any = {"bins": 40, "density": True, "range": (min(r[0] for r in reaches), max(r[1] for r in reaches))}
        axes.hist(ours[:, i], weights=shares, color=BLUE, alpha=0.6, label="the sampler", **options)
        axes.hist(theirs[:, i], color=VERMILION, histtype="step", linewidth=1.3, label="other means", **options)
        axes.set_title(f"{symbol(names[i])}, D {apart[i]:.2f}", fontsize=9)
        axes.set_yticks([])
        make_plain(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    return figure


def _shares(log_weights: LogWeights) -> np.ndarray:
    shares = np.exp(np.asarray(log_weights, np.float64) - np.max(log_weights))
    return shares / shares.sum()


def _apart(x: np.ndarray, shares: np.ndarray, y: np.ndarray, other_shares: np.ndarray) -> float:
    """The largest difference of two weighted distribution functions."""
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    values, changes = values[order], np.concatenate([shares, -other_shares])[order]
    differences = np.cumsum(changes)
    last = np.append(values[1:] != values[:-1], True)  # of equal values all at once
    return float(np.max(np.abs(differences[last])))


def _reach(values: Float[np.ndarray, " samples"], shares: Float[np.ndarray, " samples"]) -> plots.Interval:
    order = np.argsort(values)
    below = np.cumsum(shares[order])
    ends = (values[order[min(int(np.searchsorted(below, q)), values.size - 1)]] for q in (0.01, 0.99))
    low, high = (float(end) for end in ends)
    margin = 0.1 * (high - low) or 0.5
    return low - margin, high + margin
