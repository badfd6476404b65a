"""Modes of a density, by climbing from many starts, with the mass that a normal distribution around each would have."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from dds import devices, normal
from dds.checks import require, typed
from dds.compiling import QUICK, in_batches, once
from dds.types import KeyArray, LogDensity, Mixture, Normal, Scalar, State

SPREADS = (1.0, 1.0, 0.3, 2.0)
"""The starts lie at these multiples of the scale of where the target is looked for, in turn."""


DENSE = 128
"""The dimension above which the fewest climbs are made, since each mode takes a Hessian."""

LARGE = 4096
"""The dimension above which no matrix is made, and so no mode is told from another."""

LISTED, STORED = 2048, 2**27
"""The most ends of climbs that are looked at more closely, and the most numbers of their matrices."""

OPERATIONS = 1e7
"""What all climbs may cost in floating-point operations, divided by the evaluations that one takes."""

FEWEST, MOST = 64, 16384
"""The fewest climbs and the most."""


KINKS = 8
"""The most ends of climbs without a curvature that are kept."""

WIDTHS = tuple(0.5**i for i in range(12))
"""The widths that are tried around them, as multiples of the spread of the starts."""

AROUND = 64
"""The draws of each width."""


class Modes(NamedTuple):
    """Modes, the heaviest first.

    Attributes:
        points: Where they are.
        scales: Lower Cholesky factors of the inverse of the negative Hessian there.
        log_masses: The integral of the density if it were normal around each: Laplace's approximation.
        counts: How many climbs ended at each.
        evaluations: The number of evaluations of the density; a Hessian counts as one for each coordinate.
    """

    points: Float[Array, "modes dim"]
    scales: Float[Array, "modes dim dim"]
    log_masses: Float[Array, " modes"]
    counts: Int[np.ndarray, " modes"]
    evaluations: int

    @property
    def unseen(self) -> float:
        """The share of climbs that would end at modes not found yet: that of the modes found once (Good, 1953)."""
        return float(np.sum(self.counts == 1) / max(np.sum(self.counts), 1))


@typed
def search(
    key: KeyArray,
    log_density: LogDensity,
    start: Normal,
    *,
    starts: int = 64,
    iterations: int = 200,
    kinks: bool = False,
) -> Modes:
    r"""Climbs from many starts by L-BFGS, and keeps the modes that differ.

    The first climb starts at the mean of `start`, the others at draws from it, some of them nearer and some farther.
    What is found is where the gradient vanishes and the negative Hessian is positive definite.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: Where to look.
        starts: The number of climbs, at least 1.
        iterations: The most steps of each, at least 1.
        kinks: Whether to keep ends of climbs without a curvature, too, as that of a Laplace distribution: with a round
            normal distribution, of the width at which importance sampling finds the most mass, and that mass.

    Returns:
        The modes, none where no climb ends at one.

    Raises:
        ValueError: If a number is below 1.

    References:
        Tierney and Kadane (1986), for the masses; L-BFGS is that of optax.

    Example:
        >>> from dds import targets
        >>> mixture = targets.gaussian_mixture(
        ...     jnp.array([[-4.0, 0.0], [4.0, 0.0]]), jnp.ones(2), jnp.array([3.0, 1.0])
        ... )
        >>> found = search(
        ...     jax.random.key(0),
        ...     mixture.log_density,
        ...     Normal(jnp.zeros(2), jnp.array(3.0)),
        ... )
        >>> [round(float(mass), 2) for mass in jnp.exp(found.log_masses)]
        [0.75, 0.25]
    """
    require(starts >= 1, "starts", starts, "at least 1")
    require(iterations >= 1, "iterations", iterations, "at least 1")
    return search_from(log_density, _starts(starts, key, start), iterations=iterations, kinks=kinks)


@typed
def affordable(log_density: LogDensity, start: Normal) -> int:
    """How many climbs are cheap, from 64 to 16384: a narrow mode in many dimensions is found by one start in thousands.

    Args:
        log_density: The log density.
        start: Where to look.

    Returns:
        The number, from the operations that XLA counts for the density and its gradient; 64 above `DENSE` dimensions.

    Example:
        >>> affordable(lambda x: -jnp.sum(x**2), normal.standard(2))
        16384
    """
    if start.mean.size > DENSE:
        return FEWEST
    return int(np.clip(OPERATIONS / operations(log_density, start), FEWEST, MOST)) // FEWEST * FEWEST


@typed
def operations(log_density: LogDensity, start: Normal) -> float:
    """The floating-point operations of an evaluation with its gradient, as XLA counts them, and of a step of a climb.

    Args:
        log_density: The log density.
        start: Where to look.

    Returns:
        The number.

    Example:
        >>> operations(lambda x: -jnp.sum(x**2), normal.standard(2)) < 100
        True
    """
    analysis = jax.jit(jax.value_and_grad(log_density)).lower(start.mean).cost_analysis() or {}
    return 20.0 * start.mean.size + float(analysis.get("flops", 0.0))


@typed
def search_from(
    log_density: LogDensity, starts: Float[Array, "starts dim"], *, iterations: int = 200, kinks: bool = False
) -> Modes:
    """Climbs from given starts, and keeps the modes that differ.

    Args:
        log_density: The log density, unnormalised.
        starts: The starts.
        iterations: As in `search`.
        kinks: As in `search`.

    Returns:
        The modes.

    Raises:
        ValueError: Above `LARGE` dimensions.

    Example:
        >>> from dds import targets
        >>> search_from(
        ...     targets.gaussian(jnp.ones(2), jnp.eye(2)).log_density, jnp.eye(2)
        ... ).points.round(3).tolist()
        [[1.0, 1.0]]
    """
    dim = starts.shape[1]
    require(dim <= LARGE, "the dimension of starts", dim, f"at most {LARGE}, for each mode takes a Hessian")
    spread = np.std(np.asarray(starts), axis=0)
    unit = 2 ** np.round(np.log2(np.where(spread > 0, spread, 1)))  # powers of two do not round
    ends, values, climbs = map(np.asarray, _climb(log_density, iterations, starts, jnp.asarray(unit, starts.dtype)))
    # Most climbs end at a few points: these are told apart coarsely first, so that few Hessians are computed.
    arrived = np.isfinite(ends).all(axis=1) & np.isfinite(values)
    ends, values = (ends[arrived], values[arrived]) if arrived.any() else (np.asarray(starts[:1]), values[:1])
    near = 1e-3 * (spread + np.abs(ends[0]) + np.finfo(ends.dtype).eps)
    _, first, counts = np.unique(np.round(ends / near), axis=0, return_index=True, return_counts=True)
    order = np.lexsort((-values[first], -counts))[: min(LISTED, max(STORED // dim**2, 1))]
    first, counts = _merged(ends, near, first[order], counts[order])
    padded = ends[np.resize(first, 2 ** int(np.ceil(np.log2(len(first)))))]
    points, scales, log_masses, good = (np.asarray(leaf)[: len(first)] for leaf in _look(log_density, padded))
    evaluations = 2 * int(climbs.sum()) + padded.size
    found = _distinct(points[good], scales[good], log_masses[good], counts[good], evaluations)
    if not kinks or good.all():
        return found
    rest = first[~good]
    return merge(found, _kinks(log_density, ends[rest], values[rest], counts[~good], spread))


@typed
def climb(log_density: LogDensity, start: State, *, iterations: int = 200) -> tuple[State, int]:
    """Where one climb ends, without a look at the curvature there.

    Args:
        log_density: The log density, unnormalised.
        start: Where it starts.
        iterations: The most steps of L-BFGS.

    Returns:
        The end, and the evaluations of the density; the start, if the end is not finite.

    Example:
        >>> climb(lambda x: -jnp.sum((x - 1) ** 2), jnp.zeros(2))[0].tolist()
        [1.0, 1.0]
    """
    end, _, climbs = _climb(log_density, iterations, start[None], jnp.ones_like(start))
    return jnp.where(jnp.isfinite(end).all(), end[0], start), 2 * int(climbs.sum())


@typed
def none(dim: int) -> Modes:
    """No modes.

    Args:
        dim: The dimension.

    Returns:
        The modes.

    Example:
        >>> len(none(3).points)
        0
    """
    return Modes(jnp.zeros((0, dim)), jnp.zeros((0, dim, dim)), jnp.zeros(0), np.zeros(0, int), 0)


@typed
def merge(first: Modes, second: Modes) -> Modes:
    """Modes of two searches together, each once.

    Args:
        first: The modes of one.
        second: The modes of the other.

    Returns:
        All of them, the heaviest first.

    Example:
        >>> from dds import targets
        >>> found = search(
        ...     jax.random.key(0),
        ...     targets.gaussian(jnp.ones(2), jnp.eye(2)).log_density,
        ...     normal.standard(2),
        ... )
        >>> len(merge(found, found).points)
        1
    """
    points, scales, log_masses, counts = (np.concatenate(pair) for pair in zip(first[:4], second[:4], strict=True))
    return _distinct(points, scales, log_masses, counts, first.evaluations + second.evaluations)


@typed
def mixture(modes: Modes) -> Mixture:
    """The mixture of normal distributions around modes, in proportion to their masses.

    Args:
        modes: The modes, at least one.

    Returns:
        The mixture.

    Raises:
        ValueError: If there are no modes.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), jnp.eye(2))
        >>> mixture(
        ...     search(jax.random.key(0), target.log_density, normal.standard(2))
        ... ).means.round(3).tolist()
        [[1.0, 1.0]]
    """
    require(len(modes.points) >= 1, "modes", "none", "at least one")
    points, scales, log_masses, *_ = modes
    return Mixture(jax.nn.log_softmax(log_masses), points, scales, jnp.asarray(jnp.inf, points.dtype))


def _merged(ends: np.ndarray, unit: np.ndarray, first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends that rounding has told apart, together where they are neighbours: in many dimensions nearly all are."""
    kept = np.zeros(0, int)
    hits = np.zeros(len(first), int)
    for i in range(len(first)):
        near = np.flatnonzero((np.abs(ends[first[kept]] - ends[first[i]]) < 2 * unit).all(axis=1))
        if not near.size:
            kept = np.append(kept, i)
        hits[kept[near[0]] if near.size else i] += counts[i]
    return first[kept], hits[kept]


def _distinct(points, scales, log_masses, counts, evaluations: int) -> Modes:
    """Each mode once, the heaviest first: two ends of climbs less than half a standard deviation apart are one."""
    kept, hits = np.zeros(0, int), np.zeros(len(points), int)
    inverses = np.linalg.inv(scales.astype(np.float64))
    for i in np.argsort(-log_masses, kind="stable"):
        away = np.einsum("kij,kj->ki", inverses[kept], points[i] - points[kept])
        near = np.flatnonzero(np.linalg.norm(away, axis=1) < 0.5)
        if not near.size:
            kept = np.append(kept, i)
        hits[kept[near[0]] if near.size else i] += counts[i]
    points, scales, log_masses = (jnp.asarray(leaf[kept]) for leaf in (points, scales, log_masses))
    return Modes(points, scales, log_masses, hits[kept], evaluations)


@partial(once, static_argnums=0)
def _starts(count: int, key: KeyArray, start: Normal) -> Float[Array, "count dim"]:
    noise = jax.random.normal(key, (count, start.mean.size), start.mean.dtype).at[0].set(0)
    spreads = jnp.asarray(SPREADS, start.mean.dtype)[jnp.arange(count) % len(SPREADS)]
    return jax.vmap(partial(normal.reparameterise, start))(spreads[:, None] * noise)


@partial(devices.program, static=2, compiler_options=QUICK)
def _climb(
    log_density: LogDensity, iterations: int, starts: Float[Array, "starts dim"], unit: State
) -> tuple[Array, Array, Int[Array, " starts"]]:
    """Ends of climbs, the log density there and the steps they took; the first step of a climb is one unit long."""

    def loss(x: State) -> Scalar:
        return -log_density(unit * x)

    # The zoom search takes twice as long to compile as all the rest of the program.
    # Climbs go side by side, each step as long as its longest search: it halves, and is short.
    line_search = optax.scale_by_backtracking_linesearch(
        max_backtracking_steps=10, decrease_factor=0.5, store_grad=True
    )
    optimiser, value_and_grad = optax.lbfgs(linesearch=line_search), optax.value_and_grad_from_state(loss)

    def climb(carry: Any):
        x, state, i, _, fresh, _ = carry
        value, gradient = value_and_grad(x, state=state)
        change, after = optimiser.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        moved: Any = optax.apply_updates(x, change)
        end = loss(moved)
        better = end < value - jnp.finfo(starts.dtype).eps * jnp.abs(value)
        # Where the density is not concave, as in a heavy tail, what was learnt of its curvature can point downhill.
        anew = optimiser.init(x)
        x, state = jax.tree.map(lambda new, old: jnp.where(better, new, old), (moved, after), (x, anew))
        return x, state, i + 1, jnp.where(better, end, value), ~better, ~better & fresh

    def unfinished(carry):
        _, state, i, _, fresh, stuck = carry
        return (i < iterations) & ~stuck & (fresh | (jnp.max(jnp.abs(optax.tree.get(state, "grad"))) > 1e-4))

    def one(start: State):
        first = (start, optimiser.init(start), 0, jnp.asarray(jnp.inf, start.dtype), True, False)
        x, _, climbs, value, *_ = jax.lax.while_loop(unfinished, climb, first)
        return x, -value, climbs

    ends, values, climbs = devices.share(one, batch_size=256)(starts / unit[None])
    return ends * unit[None], values, climbs


def _kinks(
    log_density: LogDensity, ends: np.ndarray, values: np.ndarray, hits: np.ndarray, spread: np.ndarray
) -> Modes:
    """The highest ends of climbs as modes, each with a round normal distribution; ends within it are no others."""
    dim, left, found = ends.shape[1], np.isfinite(values), []
    while left.any() and len(found) < KINKS:
        i = int(np.argmax(np.where(left, values, -np.inf)))
        masses = np.nan_to_num(np.asarray(_masses(log_density, ends[i], spread)), nan=-np.inf)
        width = WIDTHS[int(np.argmax(masses))] * spread
        near = left & (np.linalg.norm((ends - ends[i]) / width, axis=1) <= 3 * np.sqrt(dim))
        near[i] = True
        found.append((ends[i], np.diag(width), masses.max(), hits[near].sum()))
        left &= ~near
    points, scales, log_masses, counts = map(np.array, zip(*found, strict=True))
    return _distinct(points, scales, log_masses, counts, len(found) * len(WIDTHS) * AROUND)


@partial(once, static_argnums=0)
def _masses(log_density: LogDensity, point: State, spread: State) -> Float[Array, " widths"]:
    """The log mass that importance sampling from round normal distributions around a point finds, for each width."""
    noise = jax.random.normal(jax.random.key(0), (AROUND, point.size), point.dtype)

    def mass(width: Array) -> Array:
        around = Normal(point, width * spread)
        draws = jax.vmap(partial(normal.reparameterise, around))(noise)
        log_w = jax.vmap(lambda x: log_density(x) - normal.log_density(around, x))(draws)
        return jax.nn.logsumexp(jnp.where(jnp.isfinite(log_w), log_w, -jnp.inf)) - jnp.log(AROUND)

    return jax.lax.map(mass, jnp.asarray(WIDTHS, point.dtype))


@partial(devices.program, static=1, compiler_options=QUICK)
def _look(
    log_density: LogDensity, points: Float[Array, "points dim"]
) -> tuple[Array, Array, Array, Bool[Array, " points"]]:
    """Laplace's approximation at points, and whether they are modes."""
    columns = jnp.eye(points.shape[1], dtype=points.dtype)

    def loss(x: State) -> Scalar:
        return -log_density(x)

    def look(x: State):
        hessian = in_batches(lambda v: jax.jvp(jax.grad(loss), (x,), (v,))[1], 64)(columns)
        scale = factor_of_inverse((hessian + hessian.T) / 2)
        slope = scale.T @ jax.grad(loss)(x)
        x = x - scale @ slope  # a Newton step: exact where the target is normal
        mass = log_density(x) + jnp.sum(jnp.log(jnp.diagonal(scale))) + x.size / 2 * jnp.log(2 * jnp.pi)
        # Where there is a slope, in standard deviations, the climb did not arrive: as in a curved valley.
        return x, scale, mass, jnp.isfinite(scale).all() & jnp.isfinite(mass) & (jnp.linalg.norm(slope) < 0.1)

    return devices.share(look, batch_size=side_by_side(64, points.shape[1]))(points)


def side_by_side(most: int, dim: int) -> int:
    """How many matrices of a dimension are worked on at a time.

    Args:
        most: The most, a power of two.
        dim: The dimension.

    Returns:
        A power of two: that many matrices have a few million numbers at most, or there is one.

    Example:
        >>> side_by_side(64, 10), side_by_side(64, 500), side_by_side(64, 4000)
        (64, 16, 1)
    """
    return min(most, 2 ** int(np.log2(max(2**22 // dim**2, 1))))


def factor_of_inverse(precision: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """The lower Cholesky factor of the inverse, by way of the factorisation from the last coordinate to the first.

    Args:
        precision: A symmetric, positive definite matrix.

    Returns:
        The factor; not a number where the matrix is not positive definite.

    Example:
        >>> factor_of_inverse(4 * jnp.eye(1)).tolist()
        [[0.5]]
    """
    upper = jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
    return jax.scipy.linalg.solve_triangular(upper.T, jnp.eye(len(precision), dtype=precision.dtype), lower=True)
