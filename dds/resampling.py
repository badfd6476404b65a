r"""Sequential Monte Carlo along the path: paths of a sampler that are resampled while they are drawn.

Weights that spread on the way are cut back there, not at the end alone: paths that have gone wrong make room for copies
of better ones. With the kernels of CMCD this is annealed sequential Monte Carlo with learned moves, with those of DDS a
particle filter for the time reversal.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dds import devices, estimators, mixtures, normal, paths
from dds.checks import require, typed
from dds.types import KeyArray, LogDensity, LogWeights, Noise, Potentials, Row, Sampler, Scalar, State


class Along(NamedTuple):
    """The ends of paths that were resampled on the way, with weights.

    Attributes:
        points: Their ends, in the user's coordinates.
        log_weights: Their log weights, whose mean weight is the estimate of `Z`. Unlike those of `dds.losses`, they
            are not independent.
        log_z: The estimate of `log Z` and its standard error. The error is that of the weights that go back to the same
            first path, and for systematic resampling, which is used, it is rather too large.
        resampled: How often they were resampled.
    """

    points: Float[Array, "count dim"]
    log_weights: LogWeights
    log_z: estimators.Estimate
    resampled: Int[Array, ""]


class _Swarm(NamedTuple):
    """Paths that have come to the same step.

    Attributes:
        visits: Where they are.
        levels: The log potential there.
        steps: The rest of their log weights.
        first: The index of the first path that each goes back to.
        resampled: How often they were resampled.
    """

    visits: paths.Visit
    levels: Float[Array, " count"]
    steps: Float[Array, " count"]
    first: Int[Array, " count"]
    resampled: Int[Array, ""]


@typed
def along_path(
    key: KeyArray, sampler: Sampler, log_density: LogDensity, count: int, *, ess_threshold: float = 0.5
) -> Along:
    r"""Draws paths of a sampler, and resamples them wherever their weights so far have become uneven.

    The weight of a path up to its state $y_k$ is that of `dds.losses.log_weights_along`. Without resampling the ends
    have the weights of `dds.losses.log_weight`; with it, the mean weight is $Z$ as before. Where the density is zero on
    the way, a path counts as the least of the others: it can come back.

    Args:
        key: The random key.
        sampler: The sampler, of one step or more, with `potentials` (`dds.families.with_potentials`).
        log_density: The log density of the target.
        count: The number of paths, at least 2.
        ess_threshold: The effective sample size, as a fraction in [0, 1], below which they are resampled; never at 0.

    Returns:
        The paths' ends with their weights. All of it can be compiled, and batched over keys.

    Raises:
        ValueError: If a number is out of its range, or the sampler has no steps or no `potentials`.

    References:
        Del Moral, Doucet and Jasra (2006), section 3; Phillips, Dau, Hutchinson, De Bortoli, Deligiannidis and Doucet
        (2024), Particle Denoising Diffusion Sampler; Chen, Berner, Richter, Vargas and others (2025), Sequential
        Controlled Langevin Diffusions; Lee and Whiteley (2018), section 2, for the standard error.

    Example:
        >>> from dds import families, networks, schedules
        >>> def log_density(x):
        ...     return -jnp.sum((x - 1) ** 2) / 2
        >>> fractions, place = schedules.constant(8, total=2.0), normal.standard(2)
        >>> network = networks.mlp(2, jnp.zeros_like)
        >>> plain = families.cmcd(network, fractions, log_density, place)
        >>> family = families.with_potentials(plain, log_density)
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> along = along_path(jax.random.key(1), sampler, log_density, 2000)
        >>> bool(jnp.abs(along.log_z.value - jnp.log(2 * jnp.pi)) < 0.2)
        True
    """
    require(count >= 2, "count", count, "at least 2")
    require(0 <= ess_threshold <= 1, "ess_threshold", ess_threshold, "in [0, 1]")
    require(paths.steps(sampler) >= 1, "the number of steps", 0, "at least 1")
    potentials = paths.potentials(sampler)
    return devices.program(lambda key: _along(key, sampler, potentials, log_density, count, ess_threshold))(key)


def _along(
    key: KeyArray, sampler: Sampler, potentials: Potentials, log_density: LogDensity, count: int, ess_threshold: float
) -> Along:
    noise_key, resample_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (count, paths.noise_size(sampler)), sampler.reference.start.mean.dtype)
    first_noise, noise = jax.vmap(lambda noise: paths.cut_noise(noise, sampler), out_axes=(0, 1))(noise)

    def begin(noise: Noise) -> tuple[paths.Visit, Scalar]:
        visit = paths.first_visit(sampler, noise)
        log_prior = mixtures.log_density(sampler.prior, visit.state)
        return visit, normal.log_density(sampler.reference.start, visit.state) - log_prior

    def advance(swarm: _Swarm, row: tuple[Row, Row], noise: Array, potential: Callable[[State], Scalar]) -> _Swarm:
        def one(visit: paths.Visit, noise: Noise) -> tuple[paths.Visit, Scalar, Scalar]:
            after, increment = paths.step(sampler, visit, row, noise)
            return after, potential(after.state), increment.log_backward - increment.log_forward

        visits, levels, steps = devices.share(one)(swarm.visits, noise)
        return swarm._replace(visits=visits, levels=levels, steps=swarm.steps + steps)

    def weights_of(swarm: _Swarm) -> LogWeights:
        log_w = swarm.levels + swarm.steps
        return jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)

    def resample(key: KeyArray, swarm: _Swarm) -> _Swarm:
        log_w = weights_of(swarm)
        chosen = estimators.resample(key, log_w, count)
        visits, levels, first = jax.tree.map(lambda leaf: leaf[chosen], (swarm.visits, swarm.levels, swarm.first))
        return _Swarm(visits, levels, estimators.log_z(log_w).value - levels, first, swarm.resampled + 1)

    def move(swarm: _Swarm, inputs) -> tuple[_Swarm, None]:
        row, potential_row, noise, key = inputs
        swarm = advance(swarm, row, noise, lambda y: potentials.apply(y, potential_row))
        # A path may come back from where the density is zero. Weights to resample by can be any that are not.
        is_known = jnp.isfinite(swarm.levels)
        least = jnp.min(jnp.where(is_known, swarm.levels, jnp.inf))
        swarm = swarm._replace(levels=jnp.where(is_known, swarm.levels, jnp.where(jnp.isfinite(least), least, 0)))
        uneven = estimators.effective_sample_size(weights_of(swarm)) < ess_threshold
        return jax.lax.cond(uneven, partial(resample, key), lambda swarm: swarm, swarm), None

    visits, first_steps = devices.share(begin)(first_noise)
    swarm = _Swarm(visits, jnp.zeros_like(first_steps), first_steps, jnp.arange(count), jnp.zeros((), int))
    rows, keys = paths.step_rows(sampler), jax.random.split(resample_key, paths.steps(sampler) - 1)
    before_last, last = (jax.tree.map(lambda leaf, at=at: leaf[at], rows) for at in (slice(None, -1), -1))
    swarm, _ = jax.lax.scan(move, swarm, (before_last, potentials.rows, noise[:-1], keys))
    swarm = advance(swarm, last, noise[-1], lambda y: paths.end_potential(sampler, y, log_density))
    points = jax.vmap(lambda y: paths.positions(y[None], sampler)[0])(swarm.visits.state)
    log_w = weights_of(swarm)
    of_each = jax.ops.segment_sum(jnp.exp(log_w - jax.nn.logsumexp(log_w)), swarm.first, count)
    error = jnp.sqrt(jnp.maximum(jnp.sum(of_each**2) - 1 / count, 0))
    return Along(points, log_w, estimators.Estimate(estimators.log_z(log_w).value, error), swarm.resampled)
