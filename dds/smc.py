r"""Sequential Monte Carlo: points of the target by other means than the sampler's own weights.

The reverse KL divergence sees only what the sampler visits: once a mode is lost nothing says so, and the weights look
better than they are. Particles that move from a simple distribution to the target through all temperatures between them
keep modes in proportion to their mass.

One function, `temper`, serves wherever there is a start and a density. From a wide start it finds points to train on,
and to check a sampler by. In the noise of the paths of a sampler, with the density $\mathcal N(e; 0, I)\, w(e)$, it
turns the sampler's own paths into paths of the target: that is `refine`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dds import estimators, losses, mixtures, normal
from dds.checks import require, typed
from dds.compiling import once
from dds.paths import noise_size, path_of_noise
from dds.types import KeyArray, LogDensity, LogWeights, Mixture, Normal, Sampler, Scalar, State

ACCEPTANCE = 0.574
"""The rate of accepted moves that the step size is led to."""

COLLAPSED = 0.05
"""The effective sample size of a stage, as a fraction, below which the particles are copies of a few."""

DENSE = 128
"""The dimension up to which moves are scaled by the covariance of the particles, if these are ten times as many."""


class Particles(NamedTuple):
    """Tempered particles.

    Attributes:
        points: The points, of equal weight.
        log_z: The estimate of `log Z`, the sum of the log mean weights of the stages.
        stages: The number of stages that it took.
        evaluations: The number of evaluations of the density, each with its gradient or without.
        settled: Whether the mean log density had stopped rising or falling in the last stage, and no stage left copies
            of a few particles alone.
    """

    points: Float[Array, "count dim"]
    log_z: float
    stages: int
    evaluations: int
    settled: bool


class Refined(NamedTuple):
    """Paths of the target, of equal weight, that were tempered in the noise of a sampler.

    Attributes:
        points: Their ends, in the user's coordinates.
        log_weights: Their log weights, as of paths noised from these ends.
        log_z: The estimate of `log Z`.
        evaluations: The number of evaluations of the density.
        stages: The number of stages that it took.
    """

    points: Float[Array, "count dim"]
    log_weights: LogWeights
    log_z: float
    evaluations: int
    stages: int


class _Population(NamedTuple):
    points: Float[Array, "count dim"]
    inverse_temperature: Scalar
    log_size: Scalar
    log_z: Scalar
    rise: Scalar
    least: Scalar
    settling: Int[Array, ""]


@typed
def temper(
    key: KeyArray,
    log_density: LogDensity,
    start: Normal | Mixture,
    count: int,
    *,
    mcmc_steps: int = 10,
    ess_threshold: float = 0.9,
    max_stages: int = 500,
    settling: int = 0,
    gradient: bool = True,
) -> Particles:
    r"""Points of the target, by sequential Monte Carlo through $q^{1 - \beta} \gamma^\beta$ from $\beta = 0$ to 1.

    Each stage takes the largest step in $\beta$ at which the effective sample size of the weights stays at a share of
    the particles, resamples by them, and moves the points by preconditioned Crank-Nicolson-Langevin chains. In the
    coordinates $z$ in which the particles have mean zero and covariance one (or variances, where they are few for their
    dimension),

    $$ z' = a z + (1 - a)\, r + \sqrt{1 - a^2}\, \epsilon, \qquad r = z + \nabla_z \log \gamma_\beta(z), $$

    with a long $r$ shortened, accepted by Metropolis and Hastings' rule; $a$ is led to an acceptance rate of 0.574. A
    normal distribution is kept by any $a$, so where the target is nearly normal the step does not shrink with the
    dimension. Proportions of modes have the error of resampled particles. Where the chains do not mix, as in a narrow
    neck, there are too few particles.

    Args:
        key: The random key.
        log_density: The log density, unnormalised. Points where it is not finite are lost in the first stage.
        start: The distribution $q$, wide enough to reach all modes.
        count: The number of particles, at least 2.
        mcmc_steps: The number of moves in a stage, at least 1.
        ess_threshold: The share of the particles, in (0, 1).
        max_stages: The most stages, at least 1; the last of them goes to the target whatever the weights are.
        settling: The most further stages at the target itself, until the mean log density does not change.
        gradient: Whether moves use the gradient of the density.

    Returns:
        The particles.

    Raises:
        ValueError: If a number is out of its range, or the density is finite at none of the points it starts from.

    References:
        Del Moral, Doucet and Jasra (2006), section 3; Jasra, Stephens, Doucet and Tsagaris (2011), for the steps in
        temperature; Cotter, Roberts, Stuart and White (2013), section 4, for the moves.

    Example:
        >>> start = Normal(jnp.zeros(2), jnp.array(3.0))
        >>> points = temper(jax.random.key(0), lambda x: -2 * jnp.sum((jnp.abs(x) - 4) ** 2), start, 1000).points
        >>> round(float(jnp.mean(points[:, 0] > 0)), 1)
        0.5
    """
    require(count >= 2, "count", count, "at least 2")
    require(mcmc_steps >= 1, "mcmc_steps", mcmc_steps, "at least 1")
    require(0 < ess_threshold < 1, "ess_threshold", ess_threshold, "in (0, 1)")
    require(max_stages >= 1, "max_stages", max_stages, "at least 1")
    require(settling >= 0, "settling", settling, "at least 0")
    numbers = (count, mcmc_steps, max_stages, settling, gradient)
    population, stages = _temper(log_density, numbers, key, start, ess_threshold)
    points, _, _, log_z, rise, least, _ = population
    message = f"not so at any of {count} points drawn from the start"
    require(bool(np.isfinite(log_z)), "log_density", message, "finite where the particles start")
    return Particles(
        points,
        float(log_z),
        int(stages),
        int(stages) * count * (mcmc_steps + 2),
        bool((rise < 2) & (least > COLLAPSED)),
    )


@typed
def refine(
    key: KeyArray,
    sampler: Sampler,
    log_density: LogDensity,
    count: int,
    *,
    mcmc_steps: int = 8,
    ess_threshold: float = 0.5,
    gradient: bool = True,
) -> Refined:
    r"""Turns a sampler's own paths into paths of the target, by tempering in their noise.

    The particles are the standard normal noise $e$ of paths; the tempered density is
    $\mathcal N(e; 0, I)\, w(e)^\beta$. It mends weights with a heavy tail where the sampler roughly knows the geometry.

    Args:
        key: The random key.
        sampler: The sampler.
        log_density: The log density of the target.
        count: The number of particles, at least 2.
        mcmc_steps: As in `temper`.
        ess_threshold: As in `temper`.
        gradient: As in `temper`.

    Returns:
        The paths.

    Raises:
        ValueError: As in `temper`.

    References:
        Cotter, Roberts, Stuart and White (2013).

    Example:
        >>> from dds import families
        >>> family = families.importance(Normal(jnp.zeros(2), jnp.array(2.0)))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> refined = refine(jax.random.key(1), sampler, lambda x: -jnp.sum(x**2) / 2, 1000)
        >>> 0.8 < float(jnp.std(refined.points)) < 1.2
        True
    """
    size, dtype = noise_size(sampler), sampler.reference.start.mean.dtype

    def path(e: State):
        path = path_of_noise(e, sampler)
        return path.x, losses.log_weight(path, log_density)

    def log_target(e: State) -> Scalar:
        return path(e)[1] - 0.5 * jnp.sum(e**2)

    start = Normal(jnp.zeros(size, dtype), jnp.ones((), dtype))
    options = {"mcmc_steps": mcmc_steps, "ess_threshold": ess_threshold, "gradient": gradient}
    noise, log_z, stages, evaluations, _ = temper(key, log_target, start, count, **options)
    points, log_w = jax.jit(lambda noise: jax.lax.map(path, noise, batch_size=1000))(noise)
    log_z -= 0.5 * size * float(np.log(2 * np.pi))
    each = jax.tree.leaves(sampler.reference.rows)[0].shape[0] + 1
    return Refined(points, log_w, log_z, evaluations * each, stages)


@partial(once, static_argnums=(0, 1))
def _temper(
    log_density: LogDensity,
    numbers: tuple[int, int, int, int, bool],
    key: KeyArray,
    start: Normal | Mixture,
    ess_threshold: Scalar,
) -> tuple[_Population, Int[Array, ""]]:
    count, mcmc_steps, max_stages, settling, gradient = numbers

    def log_gamma(x: State) -> Scalar:
        value = log_density(x)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def stage(carry):
        i, (points, beta, log_size, log_z, _, least, done) = carry
        resample_key, move_key = jax.random.split(jax.random.fold_in(stages_key, i))
        values = jax.vmap(log_gamma)(points)
        log_ratios = values - jax.vmap(partial(mixtures.log_density, start))(points)
        step = jnp.where(i >= max_stages, 1 - beta, _largest_step(log_ratios, 1 - beta, ess_threshold))
        done, beta = done + (beta >= 1), jnp.where(step >= 1 - beta, 1, beta + step)
        weights = jnp.where(step > 0, step * log_ratios, 0)
        log_z += estimators.log_z(weights).value
        least = jnp.minimum(least, estimators.effective_sample_size(weights))
        chosen = estimators.resample(resample_key, weights, count)
        points = points[chosen]
        place = _place(points)

        def tempered(z: State) -> Scalar:
            x = normal.reparameterise(place, z)
            return beta * log_gamma(x) + (1 - beta) * mixtures.log_density(start, x)

        inside = jax.vmap(partial(normal.standardise, place))(points)
        moved, log_size = _move(move_key, tempered, inside, log_size, mcmc_steps, gradient)
        points = jax.vmap(partial(normal.reparameterise, place))(moved)
        changes = jax.vmap(log_gamma)(points) - values[chosen]
        spread = jnp.std(changes) + jnp.finfo(points.dtype).eps
        rise = jnp.abs(jnp.mean(changes)) / (spread / jnp.sqrt(count))
        return i + 1, _Population(points, beta, log_size, log_z, rise, least, done)

    def unfinished(carry):
        _, (_, beta, _, _, rise, _, done) = carry
        return (beta < 1) | ((rise >= 2) & (done < settling))

    start_key, stages_key = jax.random.split(key)
    dtype = (start.mean if isinstance(start, Normal) else start.means).dtype
    noise = jax.random.normal(start_key, (count, mixtures.noise_size(start)), dtype)
    points = jax.vmap(partial(mixtures.draw, start))(noise)
    zero = jnp.zeros((), points.dtype)
    first = _Population(points, zero, zero, zero, zero, zero + 1, jnp.zeros((), int))
    stages: Any
    stages, population = jax.lax.while_loop(unfinished, stage, (1, first))
    return population, stages - 1


def _largest_step(log_ratios: Float[Array, " count"], limit: Scalar, ess_threshold: Scalar) -> Scalar:
    """The largest step in inverse temperature that keeps the effective sample size, by bisection."""

    def keeps(step: Scalar):
        return estimators.effective_sample_size(step * log_ratios) >= ess_threshold

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        return jnp.where(keeps(middle), middle, low), jnp.where(keeps(middle), high, middle)

    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(limit), limit))
    return jnp.where(keeps(limit), limit, jnp.maximum(low, limit * 1e-6))


def _place(points: Float[Array, "count dim"]) -> Normal:
    """Coordinates in which points have mean zero and covariance one, or at least variances."""
    count, dim = points.shape
    mean, variances = jnp.mean(points, axis=0), jnp.var(points, axis=0) + jnp.finfo(points.dtype).tiny
    if dim > DENSE or count < 10 * dim:
        return Normal(mean, jnp.sqrt(variances))
    away = points - mean[None]
    factor = jnp.linalg.cholesky(away.T @ away / count + 1e-6 * jnp.diag(variances))
    return Normal(mean, jnp.where(jnp.isfinite(factor).all(), factor, jnp.diag(jnp.sqrt(variances))))


def _move(
    key: KeyArray,
    log_density: LogDensity,
    points: Float[Array, "count dim"],
    log_size: Scalar,
    mcmc_steps: int,
    gradient: bool,
) -> tuple[Float[Array, "count dim"], Scalar]:
    """Moves of all points, with one step size."""

    def look(z: State) -> tuple[Scalar, State]:
        if not gradient:
            return log_density(z), jnp.zeros_like(z)
        value, score = jax.value_and_grad(log_density)(z)
        return value, jnp.where(jnp.isfinite(score).all(), z + score, 0)

    def step(carry, key):
        chains, log_size = carry
        noise_key, accept_key = jax.random.split(key)
        size = jnp.minimum(jnp.exp(log_size), 2)
        keep = (2 - size) / (2 + size)
        width = jnp.sqrt(1 - keep**2)
        noise = jax.random.normal(noise_key, points.shape, points.dtype)
        levels = jax.random.uniform(accept_key, points.shape[:1], points.dtype)

        def mean(z: State, residual: State) -> State:
            length = jnp.sqrt(jnp.mean(residual**2))
            return keep * z + (1 - keep) / (1 + width * length) * residual

        def one(chain, noise: State, level: Scalar):
            z, value, residual = chain
            other = mean(z, residual) + width * noise
            other_value, other_residual = look(other)
            back = (z - mean(other, other_residual)) / width
            log_rate = other_value - value + 0.5 * jnp.sum((noise - back) * (noise + back))
            rate = jnp.where(jnp.isnan(log_rate), 0.0, jnp.exp(jnp.minimum(log_rate, 0)))
            moved = (other, other_value, other_residual)
            return jax.tree.map(lambda new, old: jnp.where(level < rate, new, old), moved, chain), rate

        chains, rates = jax.vmap(one)(chains, noise, levels)
        return (chains, jnp.minimum(log_size + 0.5 * (jnp.mean(rates) - ACCEPTANCE), jnp.log(2.0))), None

    chains = (points, *jax.vmap(look)(points))
    ((points, _, _), log_size), _ = jax.lax.scan(step, (chains, log_size), jax.random.split(key, mcmc_steps))
    return points, log_size
