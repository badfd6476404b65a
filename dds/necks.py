r"""Where a neck is: a few coordinates, or combinations of coordinates, given which the others are nearly normal.

Third derivatives of $\log \gamma$ make the log weights of draws $v$ from a normal distribution vary, to first order
with the variance

$$ \mathbb E\left[\bigl(\tfrac16\, D^3 \log \gamma(x)[v, v, v]\bigr)^2\right], $$

here with $x$ from a fit, and $v$ as in the fit given $u$. What $u$ a neck is due to is told by how little it leaves.
`dds.conditional` makes coordinates of it.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import normal
from dds.checks import typed
from dds.compiling import in_batches, once
from dds.conditional import MOST
from dds.types import LogDensity, Normal, Scalar, State

NORMAL = 8.0
"""The variance of log weights up to which the other coordinates may be nearly normal: draws show whether they are."""

LARGE, GAIN = 0.25, 0.2
"""What is due to a coordinate of a neck: at least this part of the variance, and above four dimensions so much."""

WEAK = 0.9
"""The part from which it counts, too, however little there is: a second, weaker neck."""

OBLIQUE, TURNS = 0.5, 10
"""Combinations of coordinates are taken where they leave less than this part of what coordinates do; their turns."""

ROUNDING = 1e-5
"""The variance up to which there is none: a fit of a neck can be so narrow that it sees little."""

COST = 4
"""The evaluations that a third derivative counts as: twice a product with the Hessian."""


class _Left(NamedTuple):
    """A few coordinates, as rows; the variance of log weights that they leave; how the curvature changes then."""

    few: np.ndarray
    variance: float
    changes: np.ndarray


_Ask: TypeAlias = Callable[[np.ndarray], _Left]


@typed
def search(
    log_density: LogDensity, fit: Normal, noise: Float[Array, "2 draws dim"]
) -> tuple[Float[Array, "few dim"], int]:
    r"""The few coordinates given which the others are nearly normal, and the evaluations of the density it took.

    Coordinates are taken into $u$ one by one, each time the one to which most of the variance is due, as long as that
    is a large part. Where linear combinations of coordinates leave much less, as in a rotated funnel, these are taken.
    The curvature in $v$ changes along $g = D^3 \log \gamma(x)[v, v, \cdot]$, so they are, where the fit is standard
    normal, the main axes of $\mathbb E[g g^\top / \lVert g \rVert]$, found by turns, for $v$ depends on them.

    Args:
        log_density: The log density.
        fit: A normal fit.
        noise: Standard normal noise, of draws from the fit and of directions.

    Returns:
        The coordinates, as rows $w_i$ with $u_i = w_i^\top x$, that with the largest part first, and no row if there
        are no few such; and the evaluations, a third derivative in a direction as four.

    Example:
        >>> from dds import targets
        >>> noise = jax.random.normal(jax.random.key(0), (2, 256, 5))
        >>> few, evaluations = search(
        ...     targets.funnel(5).log_density, normal.standard(5), noise
        ... )
        >>> few.tolist(), evaluations
        ([[1.0, 0.0, 0.0, 0.0, 0.0]], 6144)
    """
    dim, factor = fit.mean.size, np.asarray(normal.factor(fit), np.float64)
    directions = np.asarray(noise[1], np.float64)
    changes_at = once(in_batches(partial(_change, normal.pull_back(fit, log_density)), 64))

    def left(few: np.ndarray) -> _Left:
        axes = np.linalg.qr((few @ factor).T)[0]
        free = directions - directions @ axes @ axes.T
        changes = np.asarray(changes_at(noise[0], jnp.asarray(free, noise.dtype)), np.float64)
        return _Left(few, float(np.mean((np.sum(changes * free, axis=1) / 6) ** 2)), changes)

    path, tries = _grown(left(np.zeros((0, dim))), partial(_coordinates, left))
    best = path[-1]
    if best.variance > ROUNDING:
        oblique, more = _grown(path[0], partial(_combinations, left, factor, path))
        tries += more
        if oblique[-1].variance < OBLIQUE * best.variance:
            best = oblique[-1]
    few = best.few if best.variance <= NORMAL else best.few[:0]
    return jnp.asarray(few, fit.mean.dtype), (1 + tries) * len(directions) * COST


def _grown(plain: _Left, one_more: Callable[[_Left], list[_Left]]) -> tuple[list[_Left], int]:
    """From no coordinate on, with one more each time, as long as a large part is due to it; and how many were tried."""
    path, count, dim = [plain], 0, plain.few.shape[1]
    while len(path) <= min(MOST, dim - 1) and not (rest := path[-1].variance) <= ROUNDING:
        tries = one_more(path[-1])
        count += len(tries)
        best = min(tries, key=attrgetter("variance"))
        if rest - best.variance < min(max(LARGE * rest, GAIN if dim > MOST + 1 else 0.0), WEAK * rest):
            break
        path.append(best)
    return path, count


def _coordinates(left: _Ask, last: _Left) -> list[_Left]:
    """With each of the other coordinates."""
    others = (row for row in np.eye(last.few.shape[1]) if not (last.few @ row).any())
    return [left(np.vstack([last.few, row])) for row in others]


def _combinations(left: _Ask, factor: np.ndarray, path: list[_Left], last: _Left) -> list[_Left]:
    """The main axes along which the curvature changes, turn by turn, from no coordinate and from so few."""
    tries, (few, dim) = [], last.few.shape
    for start in {0, min(few + 1, len(path) - 1)}:
        changes, axes = path[start].changes, np.zeros((0, dim))
        for _ in range(TURNS):
            changes = np.nan_to_num(changes, posinf=0.0, neginf=0.0)
            lengths = np.linalg.norm(changes, axis=1, keepdims=True)
            main = np.linalg.svd(changes / np.sqrt(lengths + (lengths == 0)), full_matrices=False)[2][: few + 1]
            # In a funnel they turn too far, by two over the number of the other coordinates.
            relaxed = np.vstack([main, np.sqrt(2 / (dim - few - 1)) * axes])
            axes = np.linalg.svd(relaxed, full_matrices=False)[2][: few + 1]
            rows = np.linalg.solve(factor.T, axes.T).T
            tries.append(left(rows / np.abs(rows).max(axis=1, keepdims=True)))
            changes = tries[-1].changes
            if tries[-1].variance <= ROUNDING:
                break
    return tries


def _change(log_density: LogDensity, x: State, v: State) -> State:
    """How the curvature in a direction `v` changes with the point: the third derivative but for one direction."""

    def slope(s: Scalar) -> State:
        return jax.grad(log_density)(x + s * v)

    def bend(s: Scalar) -> State:
        return jax.jvp(slope, (s,), (jnp.ones_like(s),))[1]

    zero = jnp.zeros((), x.dtype)
    return jax.jvp(bend, (zero,), (jnp.ones_like(zero),))[1]
