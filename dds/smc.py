"""Sequential Monte Carlo: points of the target by other means than the sampler, to train on and to check it by.

The reverse KL divergence sees only what the sampler visits: once a mode is lost nothing says so, and the weights look
better than they are. Particles that move from a normal distribution to the target through all temperatures between them
keep modes in proportion to their mass. Paths noised from them serve two ends: the forward KL divergence, a loss that
punishes missing them (`dds.losses.forward_kl`), and weights to compare with those of the sampler's own paths
(`dds.evaluation`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dds import estimators, normal
from dds.checks import require, typed
from dds.types import KeyArray, LogDensity, Normal, Scalar, State

ACCEPTANCE = 0.574
"""The rate of accepted moves that the step size is led to."""


class Particles(NamedTuple):
    """Tempered particles.

    Attributes:
        points: The points, of equal weight.
        log_z: The estimate of `log Z`, the sum of the log mean weights of the stages.
        stages: The number of stages that it took.
        evaluations: The number of evaluations of the density, each with its gradient or without.
    """

    points: Float[Array, "count dim"]
    log_z: float
    stages: int
    evaluations: int


class _Population(NamedTuple):
    points: Float[Array, "count dim"]
    inverse_temperature: Scalar
    log_size: Scalar
    log_z: Scalar


@typed
def temper(
    key: KeyArray,
    log_density: LogDensity,
    start: Normal,
    count: int,
    *,
    mcmc_steps: int = 10,
    ess_threshold: float = 0.98,
    max_stages: int = 500,
    coordinates: Normal | None = None,
) -> Particles:
    r"""Points of the target, by sequential Monte Carlo through $q^{1 - \beta} \gamma^\beta$ from $\beta = 0$ to 1.

    Each stage takes the largest step in $\beta$ at which the effective sample size of the weights stays at a share of
    the particles, resamples by them, and moves the points by Metropolis-adjusted Langevin chains,
    $x' = x + \frac{h}{2} v \odot \nabla\log\gamma_\beta(x) + \sqrt{h v} \odot \epsilon$, with the particles'
    variances $v$; $h$ moves towards an acceptance rate of 0.574. Proportions of modes have the error of resampled
    particles. Where the chains do not mix, as in a narrow neck, there are too few particles.

    Args:
        key: The random key.
        log_density: The log density, unnormalised. Points where it is not finite are lost in the first stage.
        start: The distribution $q$, wide enough to reach all modes.
        count: The number of particles, at least 2.
        mcmc_steps: The number of Langevin steps in a stage, at least 1.
        ess_threshold: The share of the particles, in (0, 1).
        max_stages: The most stages, at least 1; the last of them goes to the target whatever the weights are.
        coordinates: Coordinates in which the chains move, such as those of `dds.coordinates`: they mix better where
            the target looks round. It changes nothing else.

    Returns:
        The particles.

    Raises:
        ValueError: If a number is out of its range, or the density is finite at none of the points it starts from.

    References:
        Del Moral, Doucet and Jasra (2006), section 3; Jasra, Stephens, Doucet and Tsagaris (2011), for the steps;
        Roberts and Rosenthal (1998), for the rate.

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
    if coordinates is None:
        coordinates = Normal(jnp.zeros_like(start.mean), jnp.ones((), start.mean.dtype))
    threshold = jnp.asarray(ess_threshold, start.mean.dtype)
    (points, _, _, log_z), stages = _temper(
        log_density, count, mcmc_steps, max_stages, key, start, coordinates, threshold
    )
    message = f"not so at any of {count} points drawn from the start"
    require(bool(np.isfinite(log_z)), "log_density", message, "finite where the particles start")
    return Particles(points, float(log_z), int(stages), int(stages) * count * (mcmc_steps + 2))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _temper(
    log_density: LogDensity,
    count: int,
    mcmc_steps: int,
    max_stages: int,
    key: KeyArray,
    start: Normal,
    coordinates: Normal,
    ess_threshold: Scalar,
) -> tuple[_Population, Int[Array, ""]]:
    outside = partial(normal.reparameterise, coordinates)

    def log_ratio(z: State) -> Scalar:
        value = log_density(outside(z)) - normal.log_density(start, outside(z))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def stage(carry):
        i, (points, beta, log_size, log_z) = carry
        resample_key, move_key = jax.random.split(jax.random.fold_in(stages_key, i))
        log_ratios = jax.vmap(log_ratio)(points)
        step = jnp.where(i == max_stages, 1 - beta, _largest_step(log_ratios, 1 - beta, ess_threshold))
        beta = jnp.where(step >= 1 - beta, 1, beta + step)
        log_z += estimators.log_z(step * log_ratios).value
        points = points[estimators.resample(resample_key, step * log_ratios, count)]

        def tempered(z: State) -> Scalar:
            return beta * log_density(outside(z)) + (1 - beta) * normal.log_density(start, outside(z))

        points, log_size = _move(move_key, tempered, points, log_size, mcmc_steps)
        return i + 1, _Population(points, beta, log_size, log_z)

    start_key, stages_key = jax.random.split(key)
    noise = jax.random.normal(start_key, (count, start.mean.size), start.mean.dtype)
    points = jax.vmap(lambda e: normal.standardise(coordinates, normal.reparameterise(start, e)))(noise)
    first = _Population(points, *jnp.zeros((3, 1), points.dtype).reshape(3))
    stages: Any
    stages, population = jax.lax.while_loop(lambda carry: carry[1].inverse_temperature < 1, stage, (1, first))
    return population._replace(points=jax.vmap(outside)(population.points)), stages - 1


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


def _move(
    key: KeyArray, log_density: LogDensity, points: Float[Array, "count dim"], log_size: Scalar, mcmc_steps: int
) -> tuple[Float[Array, "count dim"], Scalar]:
    """Langevin steps of all points, with one step size."""
    variances = jnp.var(points, axis=0) + jnp.finfo(points.dtype).tiny
    value_and_score = jax.value_and_grad(log_density)

    def step(carry, key):
        chains, log_size = carry
        noise_key, accept_key = jax.random.split(key)
        sizes = jnp.exp(log_size) * variances
        noise = jax.random.normal(noise_key, points.shape, points.dtype)
        levels = jax.random.uniform(accept_key, points.shape[:1], points.dtype)

        def one(chain, noise: State, level: Scalar):
            x, value, score = chain
            other = x + 0.5 * sizes * score + jnp.sqrt(sizes) * noise
            other_value, other_score = value_and_score(other)
            back = (x - other - 0.5 * sizes * other_score) / jnp.sqrt(sizes)
            log_rate = other_value - value + 0.5 * jnp.sum(noise**2) - 0.5 * jnp.sum(back**2)
            rate = jnp.where(jnp.isfinite(log_rate), jnp.exp(jnp.minimum(log_rate, 0)), 0.0)
            moved = (other, other_value, other_score)
            return jax.tree.map(lambda new, old: jnp.where(level < rate, new, old), moved, chain), rate

        chains, rates = jax.vmap(one)(chains, noise, levels)
        return (chains, log_size + 0.2 * (jnp.mean(rates) - ACCEPTANCE)), None

    chains = (points, *jax.vmap(value_and_score)(points))
    ((points, _, _), log_size), _ = jax.lax.scan(step, (chains, log_size), jax.random.split(key, mcmc_steps))
    return points, log_size
