r"""Coordinates for necks: normal in all coordinates but a few, given these few.

A scale parameter makes a density that is narrow at one end and wide at the other, as Neal's funnel and every centred
hierarchical model. No affine map makes it round, and walkers do not pass the neck. Given the few coordinates $u$ that
it is due to, or combinations of coordinates (`dds.necks`), the others, $v$, are often nearly normal. Then

$$ u = m + S y_u, \qquad v = \hat v(u) + H(u)^{-1/2} y_v, $$

with the mode $\hat v(u)$ and the curvature $H(u)$ of $\log \gamma(u, \cdot)$, is a bijection with
$\log\lvert\det\rvert = \log\det S - \tfrac12 \log\det H(u)$, under which $v$ is nearly standard normal whatever $u$ is.
It is the Laplace approximation of Rue, Martino and Chopin (2009), but as a change of variables: weights stay exact. So
modes and curvatures are tabulated on a grid of $u$, and the map takes no evaluation of the density.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import normal
from dds.checks import require, typed
from dds.compiling import once
from dds.types import Bijection, LogDensity, Neck, Normal, Scalar, State

MOST = 3
"""The most coordinates that a table can have axes for."""

STOPS = np.concatenate([np.arange(1, 9) / 8, np.ones(3)])
"""Where a mode is followed to by a Newton step each, as parts of the way from the middle of the fit."""

SHORTER = (1.0, 0.5, 0.25, 0.1, 0.0)
"""The parts of a Newton step, of which that is taken which goes farthest up."""

NEAR, FAR = 4.0, 128.0
"""How far the ends of the table are looked for, in standard deviations: at first, and at most."""

LEAST = 0.05
"""The least standard deviation that is told from none, in those of the fit."""

DEEP = 15.0
"""The table ends where the profile is so far below its largest value, in nats."""

COARSE, FINE = {1: 64, 2: 16, 3: 8}, {1: 128, 2: 24, 3: 12}
"""The nodes along each axis, for one axis to three: first for the moments, then for the table."""

BLOCK = 64
"""The nodes that are worked on at a time: one compiled program for all."""

EFFORT = 1e10
"""The most nodes of a coarse grid, times the dimension cubed, of a table that takes minutes at most."""

ROOM = 2**23
"""The most numbers of a table, as long as there are eight nodes along each axis."""


Entry: TypeAlias = tuple[State, Array, State]
"""What is tabulated at a node: the mode, and the columns and the logarithms of their lengths."""


@typed
def affordable(dim: int) -> int:
    """How many coordinates a table is affordable for: each node takes eleven Hessians, and each is factorised.

    Args:
        dim: The dimension, of all coordinates.

    Returns:
        Their number, from none to three.

    Example:
        >>> [affordable(dim) for dim in (100, 300, 500, 1000)]
        [3, 2, 1, 0]
    """
    return sum(COARSE[count] ** count * dim**3 <= EFFORT for count in COARSE)


def _reduced(few: np.ndarray, deviations: np.ndarray) -> tuple[list[int], np.ndarray]:
    """A coordinate for each row, and rows with the same span that are one there, and zero at those of the others."""
    rows, taken = few.copy(), []
    for i in range(len(rows)):
        taken.append(int(np.argmax(np.abs(rows[i]) * deviations)))
        rows[i] /= rows[i, taken[i]]
        others = np.arange(len(rows)) != i
        rows[others] -= rows[others, taken[i], None] * rows[i]
    return taken, rows


@typed
def tabulate(log_density: LogDensity, fit: Normal, few: Float[Array, "few dim"]) -> tuple[Neck, int]:
    r"""The table of $\hat v(u)$ and $H(u)^{-1/2}$ on a grid of $u$, and the evaluations of the density it took.

    Each mode is found by Newton steps that follow it from the middle of the fit. Where the curvature is not positive
    definite, what was last found on the way takes its place. The grid reaches as far as the profile
    $\gamma(u, \hat v(u)) \det H(u)^{-1/2}$, which is nearly the marginal density of $u$, is not negligible; its moments
    are $m$ and $S$.

    Args:
        log_density: The log density.
        fit: A normal fit.
        few: The coordinates, as rows $w_i$ with $u_i = w_i^\top x$. Rows with the same span are tabulated, in which
            one coordinate has the factor one, and zero in the others.

    Returns:
        The table, and the evaluations; a product of the Hessian with a vector counts as two.

    Raises:
        ValueError: If `few` are not one to three independent rows, fewer than dimensions.

    Example:
        >>> from dds import targets
        >>> table, evaluations = tabulate(
        ...     targets.funnel(3).log_density, normal.standard(3), jnp.eye(3)[:1]
        ... )
        >>> table.order.tolist(), table.columns.shape
        ([0, 1, 2], (128, 2, 2))
    """
    dim, count, dtype, rows = fit.mean.size, len(few), fit.mean.dtype, np.asarray(few, np.float64)
    good = 0 < count < dim and count <= MOST and np.isfinite(rows).all() and np.linalg.matrix_rank(rows) == count
    require(bool(good), "few", few, f"one to {MOST} independent rows, fewer than {dim}")
    covariance = np.asarray(normal.factor(fit) @ normal.factor(fit).T, np.float64)
    taken, rows = _reduced(rows, np.sqrt(np.diagonal(covariance)))
    order = np.concatenate([taken, np.setdiff1d(np.arange(dim), taken)])
    turn = np.concatenate([rows, np.eye(dim)[order[count:]]])
    covariance = turn @ covariance @ turn.T
    own, mixed = covariance[:count, :count], covariance[count:, :count]
    slope = np.linalg.solve(own, mixed.T).T
    plain = np.linalg.cholesky(np.linalg.inv(covariance[count:, count:] - slope @ mixed.T))
    parts = rows[:, order[count:]], turn @ np.asarray(fit.mean, np.float64), slope, plain
    shear, mean, *given = (jnp.asarray(part, dtype) for part in parts)

    def at(middle: Normal, y: np.ndarray) -> tuple[Entry, np.ndarray]:
        filled = np.resize(y, (-(-len(y) // BLOCK) * BLOCK, count))
        u = jnp.asarray(filled, dtype) @ middle.scale.T + middle.mean[None]
        parts = [_followed(log_density, order, shear, mean, *given, u[i : i + BLOCK]) for i in range(0, len(u), BLOCK)]
        entries, profile = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: len(y)], *parts)
        return entries, np.nan_to_num(np.asarray(profile, np.float64), nan=-np.inf)

    first = Normal(mean[:count], jnp.asarray(np.linalg.cholesky(own), dtype))
    y, profile, _, nodes = _extent(partial(at, first), count)
    first = normal.compose(first, _moments(y, profile, dtype))
    assert isinstance(first, Normal)
    _, _, ends, more = _extent(partial(at, first), count)
    per_axis = min(FINE[count], max(int((ROOM / (dim - count) ** 2) ** (1 / count)), 8))
    entries, _ = at(first, _grid(ends, per_axis))
    tables = (part.reshape(*count * (per_axis,), *part.shape[1:]) for part in entries)
    nodes += more + per_axis**count
    neck = Neck(jnp.asarray(order), shear, first, jnp.asarray(ends, dtype), *tables)
    return neck, nodes * STOPS.size * (4 * (dim - count) + len(SHORTER))


def _grid(ends: np.ndarray, per_axis: int) -> np.ndarray:
    """The nodes of a table: close in the middle, and far out they reach far."""
    axes = [np.sinh(np.linspace(low, high, per_axis)) for low, high in np.arcsinh(ends).T]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _extent(at: Callable[[np.ndarray], tuple[Entry, np.ndarray]], count: int):
    """Nodes of a coarse grid, the profile there, the ends of the part where it is not negligible, and how many it took.

    The profile is asked on the whole edge: in a neck of a neck the mass at an end is not where the middle is.
    """
    ends, nodes = np.array([[-NEAR] * count, [NEAR] * count]), 0
    while True:
        y = _grid(ends, COARSE[count])
        nodes += len(y)
        profile = at(y)[1]
        high = profile > profile.max() - DEEP
        beyond = np.array([np.any(np.isclose(y, end[None]) & high[:, None], axis=0) for end in ends])
        if not beyond.any() or np.abs(ends).max() >= FAR:
            break
        ends = np.where(beyond, 2 * ends, ends)
    if not high.any():  # nowhere is there a mode
        profile, high = np.zeros(len(y)), np.full(len(y), True)
    low, top = (np.arcsinh(end(y[high], axis=0)) for end in (np.min, np.max))
    between = (np.arcsinh(ends[1]) - np.arcsinh(ends[0])) / (COARSE[count] - 1)
    return y, profile, np.sinh([low - between, top + between]), nodes


def _moments(y: np.ndarray, profile: np.ndarray, dtype: np.dtype) -> Normal:
    """The normal distribution with the moments of a profile on nodes of a grid."""
    weights = np.exp(profile - profile.max()) * np.prod(np.hypot(1, y), axis=1)  # in the middle the nodes are closer
    weights /= weights.sum()
    mean = weights @ y
    spread = (weights * (y - mean).T) @ (y - mean)
    spread += np.diag(np.maximum(LEAST**2 - np.diagonal(spread), 0))  # where it lies between two nodes
    return Normal(jnp.asarray(mean, dtype), jnp.asarray(np.linalg.cholesky(spread), dtype))


@partial(once, static_argnums=0)
def _followed(
    log_density: LogDensity, order: np.ndarray, shear: Array, mean: State, slope: Array, plain: Array, u: Array
) -> tuple[Entry, Array]:
    return jax.vmap(partial(_follow, log_density, partial(_join, order, shear), mean, slope, plain))(u)


def _join(order: Array | np.ndarray, shear: Array, u: State, v: State) -> State:
    """The point with such few coordinates, and such others."""
    return jnp.zeros(order.size, v.dtype).at[order].set(jnp.concatenate([u - shear @ v, v]))


def _follow(
    log_density: LogDensity, join: Callable[[State, State], State], mean: State, slope: Array, plain: Array, u: State
) -> tuple[Entry, Scalar]:
    """The entry of the table at a point, and the profile there: the mode is followed from the middle of the fit."""
    middle, start = mean[: u.size], mean[u.size :]

    def newton(carry: tuple[State, Entry, State, Array], stop: Scalar):
        v, entry, before, _ = carry
        now = middle + stop * (u - middle)

        def loss(v: State) -> Scalar:
            return -log_density(join(now, v))

        v = v + slope @ (now - before)
        rough, fine = _curvature(loss, v)
        step = jax.scipy.linalg.solve_triangular(rough, jax.grad(loss)(v), lower=True)
        step = jax.scipy.linalg.cho_solve((fine, True), step)
        step = jax.scipy.linalg.solve_triangular(rough, step, lower=True, trans="T")
        found = _entry(v, rough, fine)
        usable = jnp.all(jnp.array([jnp.isfinite(part).all() for part in (step, *found)]))
        tries = v[None] - jnp.where(usable, step, 0.0)[None] * jnp.asarray(SHORTER, v.dtype)[:, None]
        losses = jax.vmap(loss)(tries)
        best = tries[jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))]
        entry = jax.tree.map(partial(jnp.where, usable), found, (v, *entry[1:]))
        return (best, entry, now, usable), None

    entry = _entry(start, plain, jnp.eye(start.size, dtype=u.dtype))
    carry = start, entry, middle, jnp.array(False)
    (_, entry, _, usable), _ = jax.lax.scan(newton, carry, jnp.asarray(STOPS, u.dtype))
    profile = log_density(join(u, entry[0])) + jnp.sum(entry[2])
    return entry, jnp.where(usable, profile, -jnp.inf)


def _entry(mode: State, rough: Array, fine: Array) -> Entry:
    """A mode; the factor `S` with `S S' = H^-1`, as columns with ones on the diagonal; the logarithms of their lengths.

    All of them change slowly along a neck, so straight lines between the nodes do.
    """
    eye = jnp.eye(mode.size, dtype=mode.dtype)
    inner = jax.scipy.linalg.solve_triangular(fine, eye, lower=True, trans="T")
    factor = jax.scipy.linalg.solve_triangular(rough, inner, lower=True, trans="T")
    lengths = jnp.diagonal(factor)
    return mode, jnp.triu(factor / lengths[None]), jnp.log(lengths)


@typed
def bijection(neck: Neck) -> Bijection:
    r"""The bijection of the top of this page: the few coordinates come first in $y$, then the others.

    With $H^{-1/2} = U D$ and ones on the diagonal of $U$, it is $\hat v$, $U$ and $\log D$ that are linear between the
    nodes of the table, and constant beyond them. It takes no evaluation of the density.

    Args:
        neck: The table.

    Returns:
        The bijection.

    Example:
        >>> from dds import targets
        >>> target, few = targets.funnel(3), jnp.eye(3)[:1]
        >>> place = bijection(tabulate(target.log_density, normal.standard(3), few)[0])
        >>> flat = normal.pull_back(place, target.log_density)
        >>> [
        ...     round(
        ...         float(
        ...             flat(jnp.array([v, 1.0, 1.0])) - flat(jnp.array([v, 0.0, 0.0]))
        ...         ),
        ...         4,
        ...     )
        ...     for v in (-2.0, 2.0)
        ... ]
        [-1.0, -1.0]
    """
    first, ends = neck.first, neck.ends
    few, dim = first.mean.size, neck.order.size
    last = np.array(neck.modes.shape[:few]) - 1
    first_node = jnp.arcsinh(ends[0])  # the nodes are equally spaced there: close in the middle, and far out they reach
    step = (jnp.arcsinh(ends[1]) - first_node) / last
    corners = np.array(list(itertools.product((0, 1), repeat=few)))

    def around(y: State) -> tuple[Array, State, Array, State]:
        """The shares of the nodes around a point, and what is tabulated there; the logarithms are joined already."""
        place = jax.lax.stop_gradient((jnp.arcsinh(y) - first_node) / step)
        low = jnp.clip(jnp.floor(place), 0, last - 1).astype(int)
        left, right = jnp.sinh(first_node + low * step), jnp.sinh(first_node + (low + 1) * step)
        along = jnp.clip((y - left) / (right - left), 0, 1)
        shares = jnp.prod(jnp.where(corners == 1, along[None], 1 - along[None]), axis=1)
        nodes = tuple((low[None] + corners).T)
        return shares, shares @ neck.modes[nodes], neck.columns[nodes], shares @ neck.log_lengths[nodes]

    def forward(y: State) -> tuple[State, Scalar]:
        shares, mode, columns, log_lengths = around(y[:few])
        u = normal.reparameterise(first, y[:few])
        v = mode + shares @ (columns @ (jnp.exp(log_lengths) * y[few:]))
        return _join(neck.order, neck.shear, u, v), normal.log_determinant(first) + jnp.sum(log_lengths)

    def inverse(x: State) -> tuple[State, Scalar]:
        v = x[neck.order[few:]]
        u = x[neck.order[:few]] + neck.shear @ v
        y = normal.standardise(first, u)
        shares, mode, columns, log_lengths = around(y)
        joined = jnp.tensordot(shares, columns, axes=1)
        away = jax.scipy.linalg.solve_triangular(joined, v - mode, unit_diagonal=True)
        y = jnp.concatenate([y, jnp.exp(-log_lengths) * away])
        return y, normal.log_determinant(first) + jnp.sum(log_lengths)

    return Bijection(dim, forward, inverse)


def _curvature(loss: Callable[[State], Scalar], v: State) -> tuple[Array, Array]:
    """Lower factors `A`, `B` of the Hessian at a point, `A B B' A'`.

    In a deep neck some directions are a million times as narrow as others, and what the entries of the Hessian say of
    the wide ones is lost in rounding. A first factor, with a little added to the diagonal, knows the directions; along
    its columns the products with the Hessian are exact.
    """
    hessian = jax.hessian(loss)(v)
    little = 8 * jnp.finfo(v.dtype).eps * jnp.diag(jnp.diagonal(hessian))
    rough = jnp.linalg.cholesky(hessian + little)
    columns = jax.scipy.linalg.solve_triangular(rough, jnp.eye(v.size, dtype=v.dtype), lower=True)
    products = jax.lax.map(lambda row: jax.jvp(jax.grad(loss), (v,), (row,))[1], columns)
    fine = columns @ products.T
    return rough, jnp.linalg.cholesky((fine + fine.T) / 2)
