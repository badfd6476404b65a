"""Looks at a target for what a sampler misses: modes, and particles tempered from a wide start.

`explore` looks, `uncovered` says how much of the target lies in modes that a sampler does not cover.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import coordinates, modes, normal, smc
from dds.checks import typed
from dds.compiling import in_batches, once, split
from dds.modes import Modes
from dds.types import KeyArray, LogDensity, Normal

EXPLORERS = 400
"""The number of tempered particles that are asked what a sampler missed."""

APART = 5.0
"""A mode at which the density is this much higher, in nats, than a sampler says, is one that it does not cover."""

AROUND = 16
"""The draws around a mode by which it is asked."""

AGAIN, PATHS = 64, 16
"""The most modes that are asked again where they seem not covered, and the paths to each draw that say it."""

UNDERRATED = 0.6
"""How far Laplace's approximation can be below the mass, in nats for each dimension: with Cauchy tails, log(pi) / 2."""

COMPONENTS = 512
"""The most modes at which a sampler is checked in up to 16 dimensions (`most_modes`)."""


class Explored(NamedTuple):
    """What was found by means that are not those of the sampler to be checked.

    Attributes:
        points: Tempered particles.
        settled: Whether they have arrived at the target; `None` if there are none, in many dimensions where the density
            is not cheap (`dds.coordinates.is_cheap`).
        modes: Modes, of climbs; none, and none looked for, above `dds.modes.LARGE` dimensions.
        evaluations: The number of evaluations of the density.
    """

    points: Float[Array, "points dim"]
    settled: bool | None
    modes: Modes
    evaluations: int


class Uncovered(NamedTuple):
    """How much of the target lies in modes that a sampler does not cover.

    Attributes:
        shares: The share in each mode: 0 for modes where the weights are about the normalising constant.
        evaluations: The number of evaluations of the density, those of the weights left out.
        weighed: The number of points that were weighed.
    """

    shares: Float[np.ndarray, " modes"]
    evaluations: int
    weighed: int


@typed
def explore(key: KeyArray, log_density: LogDensity, start: Normal, *, count: int = EXPLORERS) -> Explored:
    """Looks for points of the target by climbs from new starts and by tempering from a wide start.

    Args:
        key: The random key, another than that of `search`.
        log_density: The log density, unnormalised.
        start: Where to look.
        count: The number of particles, at least 4.

    Returns:
        The points and modes.

    Raises:
        ValueError: If there are fewer particles.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), jnp.eye(2))
        >>> explore(
        ...     jax.random.key(0),
        ...     target.log_density,
        ...     Normal(jnp.zeros(2), jnp.array(3.0)),
        ... ).settled
        True
    """
    if start.mean.size > modes.LARGE:
        nothing = jnp.zeros((0, start.mean.size), start.mean.dtype)
        return Explored(nothing, None, modes.none(start.mean.size), 0)
    modes_key, particles_key = split(key)
    found = modes.search(modes_key, log_density, start, starts=modes.affordable(log_density, start), kinks=True)
    if not coordinates.is_cheap(log_density, start):
        return Explored(jnp.zeros((0, start.mean.size), start.mean.dtype), None, found, found.evaluations)
    options = {"mcmc_steps": 5, "ess_threshold": 0.7, "settling": 8, "max_stages": 100}
    particles = smc.temper(particles_key, log_density, start, count, **options)
    return Explored(particles.points, particles.settled, found, found.evaluations + particles.evaluations)


@typed
def uncovered(
    log_density: LogDensity,
    weigh: Callable[[Float[Array, "points dim"]], Float[Array, " points"]],
    log_z: float,
    found: Modes,
    *,
    paths: int = 1,
) -> Uncovered:
    r"""The share of the target in each mode that a sampler does not cover.

    A mode is not covered if most draws around it, and most of the mass that they stand for, have weights far above the
    normalising constant. (From a ridge most draws are off, where a sampler does not matter.) Of a sampler with steps
    one weight is a noisy judge, and mostly too large: over paths noised from $x$, the density $\pi$ of its ends has

    $$ \mathbb E\left[\frac{1}{w}\right] = \frac{\pi(x)}{\gamma(x)}. $$

    So the modes that seem not covered, the heaviest `AGAIN` of them, are asked again: by the harmonic mean of several
    weights for each draw.

    The mass of a mode is that of Laplace's approximation, or the estimate of importance sampling with these draws,
    whichever is smaller: along a ridge the curvature at the mode can make the mass look larger by orders. Where the
    modes that are covered have less mass, so measured, than the normalising constant, as with heavy tails in many
    dimensions, those that are not covered are taken to be larger by the same factor, up to what such tails explain.

    Args:
        log_density: The log density, unnormalised.
        weigh: The log weights that paths of the sampler to given points have.
        log_z: The logarithm of the normalising constant.
        found: The modes; the heaviest `COMPONENTS` are looked at.
        paths: How many paths each draw has when it is asked again, as many as `PATHS`; 1 if weights have no noise.

    Returns:
        The share in each mode, and what it took.

    Example:
        >>> from dds import targets
        >>> mixture = targets.gaussian_mixture(
        ...     jnp.array([[-4.0, 0.0], [4.0, 0.0]]), jnp.ones(2), jnp.array([3.0, 1.0])
        ... )
        >>> found = modes.search(
        ...     jax.random.key(0),
        ...     mixture.log_density,
        ...     Normal(jnp.zeros(2), jnp.array(3.0)),
        ... )
        >>> left = Normal(jnp.array([-4.0, 0.0]), jnp.ones(()))
        >>> def weigh(points):
        ...     return jax.vmap(
        ...         lambda x: mixture.log_density(x) - normal.log_density(left, x)
        ...     )(points)
        >>> uncovered(mixture.log_density, weigh, -0.29, found).shares.round(2).tolist()
        [0.0, 0.25]
    """
    if not len(found.points):
        return Uncovered(np.zeros(0), 0, 0)
    points, scales, log_masses = (leaf[: most_modes(found.points.shape[1])] for leaf in found[:3])
    draws, log_weights = _around(log_density, points, scales)
    log_weights, log_masses = np.asarray(log_weights, np.float64), np.asarray(log_masses, np.float64)
    parts = np.exp(np.fmin(log_weights - log_masses[:, None], 0))

    def is_missed(chosen: np.ndarray, paths: int) -> np.ndarray:
        asked = jnp.repeat(draws[chosen].reshape(-1, points.shape[1]), paths, axis=0)
        inverse = -np.asarray(weigh(asked), np.float64).reshape(len(chosen), AROUND, paths)
        with np.errstate(invalid="ignore"):  # of a sampler that found nothing
            high = ~(np.log(paths) - np.logaddexp.reduce(inverse, axis=2) - log_z <= APART)
        counts, high = parts[chosen], high & (log_weights[chosen] > -np.inf)
        return (np.mean(high, axis=1) > 0.5) & (np.sum(counts * high, axis=1) > np.sum(counts, axis=1) / 2)

    missed = is_missed(np.arange(len(points)), 1)
    again = np.flatnonzero(missed)[: AGAIN if paths > 1 else 0]
    if again.size:
        missed[again] = is_missed(again, paths)
    masses = np.fmin(log_masses, np.logaddexp.reduce(log_weights, axis=1) - np.log(AROUND))
    known = np.logaddexp.reduce(masses[~missed])
    masses += np.clip(log_z - known, 0, UNDERRATED * points.shape[1]) if np.isfinite(known) else 0
    total = np.logaddexp.reduce(np.append(masses[missed], log_z))
    shares = np.exp(np.where(missed, masses - total, -np.inf)) if np.isfinite(total) else np.zeros(len(points))
    return Uncovered(shares, AROUND * len(points), AROUND * (len(points) + again.size * paths))


def most_modes(dim: int) -> int:
    """The most modes at which a sampler is checked, and so the most components of a mixture.

    Args:
        dim: The dimension.

    Returns:
        The number.

    Example:
        >>> most_modes(10), most_modes(50), most_modes(100)
        (512, 52, 32)
    """
    return int(np.clip(2**17 // dim**2, 32, COMPONENTS))


@partial(once, static_argnums=0)
def _around(log_density: LogDensity, points: Array, scales: Array) -> tuple[Array, Array]:
    """Draws from the normal distribution around each point, and their log weights."""
    noise = jax.random.normal(jax.random.key(0), (AROUND, points.shape[1]), points.dtype)

    def one(place: Normal, e: Array) -> tuple[Array, Array]:
        x = normal.reparameterise(place, e)
        log_w = log_density(x) - normal.log_density(place, x)
        return x, jnp.where(jnp.isfinite(log_w), log_w, -jnp.inf)

    def around(point: Array, scale: Array) -> tuple[Array, Array]:
        return jax.vmap(partial(one, Normal(point, scale)))(noise)

    return in_batches(around, modes.side_by_side(16, points.shape[1]))(points, scales)
