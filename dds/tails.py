r"""Mass farther out than a sampler draws: what its weights cannot show is asked of the density.

For a bijection $T$ and a set $A$, with $x$ from the target $\pi = \gamma / Z$ outside of $A$,

$$ \frac{\pi(A)}{1 - \pi(A)} \ge
   \mathbb E\left[1_A(T x)\, \frac{\gamma(T x)}{\gamma(x)}\, \lvert\det T'(x)\rvert\right], $$

with equality where $T^{-1}$ takes all of $A$ out of it. Here $T$ stretches the coordinates of a sampler away from the
middle, all or one of them, and $A$ is where the weights are above the largest that the sampler has drawn. So the
sampler's own samples say how much lies where it never was, as far as a stretch takes them there: heavy tails, in all
directions or in one, and the far end of a neck in coordinates that know of it. Another mode is not found in this way.
Where the density changes as its argument changes in the last digits, it is rounding, and such points are left out.

No stretch follows a curved valley, but a reversible Markov chain that keeps $\pi$ does. Of chains from samples outside
of $A$ a share of $\pi(A)$ at most is in $A$ after an even number of steps, so what has escaped is a bound, too.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import chains, estimators, modes, normal
from dds.checks import typed
from dds.compiling import in_batches, once, split
from dds.types import Bijection, KeyArray, LogDensity, LogWeights, Normal

STRETCHES = (1.25, 1.5, 2.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""The factors: the smaller ones are for many dimensions, where all points have nearly the same distance."""

COUNT = 2**14
"""The number of points that are looked at, for all stretches together."""

RESOLVED = 0.1
"""The change of the log density, in nats, with the last three bits of a point, up to which it is not mere rounding."""

LEAST, MOST = 32, 1000
"""The fewest points for a stretch, and the most; coordinates are stretched one by one if all can have the fewest."""

CHAINS, STEPS = 4096, 200
"""The most chains from the samples of a sampler, and their most steps; fewer where the density is dear."""

EVALUATIONS = 2**18, 2**22
"""The evaluations of the density that the chains may take: at least, and at most."""

LARGEST = 64
"""The largest dimension in which there are chains: each step takes a matrix of second derivatives."""

APART = 5.0
"""How far the weights where a chain ends are to be above all others, in nats: heavy tails alone are seldom so far."""


class Beyond(NamedTuple):
    """What lies beyond all that a sampler draws.

    Attributes:
        share: The share of the target there, at least: two standard errors below the largest of the estimates.
        points: Points there; none if the share is zero.
        evaluations: The number of evaluations of the density, those of the weights left out.
        weighed: The number of points that were weighed.
    """

    share: float
    points: Float[np.ndarray, "far dim"]
    evaluations: int
    weighed: int


@typed
def beyond(
    key: KeyArray,
    log_density: LogDensity,
    coordinates: Normal | Bijection,
    weigh: Callable[[Float[Array, "points dim"]], Float[Array | np.ndarray, " points"]],
    points: Float[Array | np.ndarray, "paths dim"],
    log_weights: LogWeights,
) -> Beyond:
    """How much of the target lies where the weights are above all that a sampler has drawn.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        coordinates: The coordinates of the sampler, which are stretched.
        weigh: The log weights that paths of the sampler to given points have.
        points: Ends of its paths.
        log_weights: Their log weights, not all zero weights.

    Returns:
        What there is.

    Example:
        >>> import jax
        >>> def cauchy(x):
        ...     return -jnp.sum(jnp.log1p(x**2))
        >>> here = normal.standard(1)
        >>> def weigh(points):
        ...     return jax.vmap(lambda x: cauchy(x) - normal.log_density(here, x))(
        ...         points
        ...     )
        >>> x = jax.random.normal(jax.random.key(0), (10_000, 1))
        >>> share = beyond(jax.random.key(1), cauchy, here, weigh, x, weigh(x)).share
        >>> 0.12 < share < 0.18  # of the Cauchy distribution .156 lies beyond 4
        True
    """
    factors = _factors(points.shape[1])
    choose_key, far_key = split(key)
    each = factors.shape[1]
    chosen = np.asarray(estimators.resample(choose_key, log_weights, factors[..., 0].size))
    x = np.asarray(points)[chosen.reshape(each, -1).T.ravel()]  # some of all samples for each stretch
    # The compiled program is kept for a bijection that is the same, and for any affine map.
    curved, affine = (None, coordinates) if isinstance(coordinates, Normal) else (coordinates, None)
    stretched, log_ratios = _stretched(log_density, curved, affine, x, factors.reshape(x.shape).astype(x.dtype))
    above = np.asarray(weigh(stretched), np.float64) > float(np.max(log_weights)) + estimators.ROUNDING
    log_ratios = np.where(above, np.asarray(log_ratios, np.float64), -np.inf).reshape(-1, each)
    ratios = np.exp(np.minimum(log_ratios, 100.0))
    lower = np.mean(ratios, axis=1) - 2 * np.std(ratios, axis=1) / np.sqrt(each)
    best, spent = int(np.argmax(lower)), {"evaluations": 3 * len(x), "weighed": len(x)}
    if not lower[best] > 0:
        return Beyond(0.0, x[:0], **spent)
    share = float(lower[best] / (1 + lower[best]))  # the samples are of the part that is not beyond
    far = np.asarray(estimators.resample(far_key, log_ratios[best], each))
    return Beyond(share, np.asarray(stretched).reshape(*ratios.shape, -1)[best][far], **spent)


@typed
def escaped(
    key: KeyArray,
    log_density: LogDensity,
    weigh: Callable[[Float[Array, "points dim"]], Float[Array | np.ndarray, " points"]],
    points: Float[Array | np.ndarray, "paths dim"],
    log_weights: LogWeights,
    *,
    highest: float,
) -> Beyond:
    """How many Markov chains from samples go on to where the weights are far above all that a sampler has drawn.

    Args:
        key: The random key.
        log_density: The log density, unnormalised and twice differentiable.
        weigh: As in `beyond`.
        points: Samples, of the sampler or refined.
        log_weights: Their log weights, or zeros where they are of equal weight.
        highest: The largest log weight of the sampler's own paths: where it is larger by `APART` they do not go.

    Returns:
        What there is; nothing above `LARGEST` dimensions.

    Example:
        >>> import jax
        >>> def bent(x):
        ...     return -(x[0] ** 2) / 2 - 50 * (x[1] - x[0] ** 2) ** 2
        >>> x = jax.random.normal(jax.random.key(0), (5000, 1))
        >>> x = x[jnp.abs(x[:, 0]) < 1]  # and a part of the valley is missing
        >>> x = jnp.concatenate([x, x**2], axis=1)
        >>> def weigh(points):
        ...     return jnp.where(jnp.abs(points[:, 0]) < 1, 0.0, jnp.inf)
        >>> share = escaped(
        ...     jax.random.key(1), bent, weigh, x, jnp.zeros(len(x)), highest=0.0
        ... ).share
        >>> 0.2 < share < 0.33  # of the normal distribution .317 lies beyond 1
        True
    """
    dim = points.shape[1]
    if dim > LARGEST:
        return Beyond(0.0, np.asarray(points[:0]), 0, 0)
    here = Normal(jnp.asarray(points[0]), jnp.ones((), points.dtype))
    evaluations = np.clip(256 * modes.affordable(log_density, here), *EVALUATIONS) // (dim + 2)
    count = int(np.clip(evaluations // 50, CHAINS // 8, CHAINS))
    steps = int(np.clip(evaluations // count, 2, STEPS)) // 2 * 2
    choose_key, chains_key = split(key)
    start = jnp.asarray(points)[estimators.resample(choose_key, log_weights, count)]
    ends = chains.langevin(chains_key, log_density, start, steps=steps)
    before, above = np.asarray(weigh(jnp.concatenate([start, ends])), np.float64).reshape(2, -1) > highest + APART
    more = np.subtract(above, before, dtype=float)  # refined samples can be there already
    share = max(float(np.mean(more) - 2 * np.std(more) / np.sqrt(count)), 0.0)
    return Beyond(share, np.asarray(ends)[above], count * (steps + 1) * (dim + 2), 2 * count)


def _factors(dim: int) -> Float[np.ndarray, "stretches points dim"]:
    """The factors of each stretch: of all coordinates, and of one, where there are enough points for so many."""
    stretched = [np.full(dim, True)]
    if dim > 1 and LEAST * len(STRETCHES) * (dim + 1) <= COUNT:
        stretched += list(np.eye(dim, dtype=bool))
    factors = np.stack([np.where(which, factor, 1.0) for which in stretched for factor in STRETCHES])
    return np.repeat(factors[:, None], min(COUNT // len(factors), MOST), axis=1)


@partial(once, static_argnums=(0, 1))
def _stretched(
    log_density: LogDensity, curved: Bijection | None, affine: Normal | None, x: Array, factors: Array
) -> tuple[Array, Array]:
    """Points after the stretch, and the log of the ratios of densities and volumes."""
    coordinates = affine if curved is None else curved
    assert coordinates is not None
    place = normal.bijection(coordinates)
    y, before = in_batches(place.inverse, 512)(x)
    middle = jnp.median(y, axis=0)[None]
    other, after = in_batches(place.forward, 512)(middle + factors * (y - middle))
    beside = other * (1 + 8 * jnp.finfo(other.dtype).eps)
    values = in_batches(log_density, 512)(jnp.concatenate([x, other, beside]))
    here, there, close = values.reshape(3, -1)
    log_ratios = there + after - here - before + jnp.sum(jnp.log(factors), axis=1)
    resolved = jnp.isfinite(log_ratios) & (jnp.abs(there - close) <= RESOLVED)
    return other, jnp.where(resolved, log_ratios, -jnp.inf)
