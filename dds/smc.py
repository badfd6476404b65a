r"""Sequential Monte Carlo: points of the target by other means than the sampler's own weights.

The reverse KL divergence sees only what the sampler visits: once a mode is lost nothing says so, and the weights look
better than they are. Particles that move from a simple distribution to the target through all temperatures between them
keep modes in proportion to their mass.

One function, `temper`, serves wherever there is a start and a density. From a wide start it finds points to train on,
and to check a sampler by. In the noise of the paths of a sampler, with the density $\mathcal N(e; 0, I)\, w(e)$, it
turns the sampler's own paths into paths of the target: that is `refine`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dds import devices, estimators, losses, mixtures, normal
from dds.checks import require, typed
from dds.compiling import QUICK, split
from dds.paths import noise_size, path_of_noise
from dds.types import KeyArray, LogDensity, LogWeights, Mixture, Normal, Sampler, Scalar, State

ACCEPTANCE = 0.574
"""The rate of accepted moves that the step size is led to."""

COLLAPSED = 0.05
"""The effective sample size of a stage, as a fraction, below which the particles are copies of a few."""

DENSE = 128
"""The dimension up to which moves are scaled by the covariance of the particles, if these are ten times as many."""

MOST_STAGES = 500
"""The most stages, unless it is said otherwise."""

CROSSED = 3
"""The moves of a stage to each of its crossovers."""

FURTHER, ROUNDS = 32, 3
"""The further moves of refined paths in the first round, and the most rounds, each of twice as many."""


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
        drift: How far the bridge still moved with the last further moves; 0 where there were none.
    """

    points: Float[Array, "count dim"]
    log_weights: LogWeights
    log_z: float
    evaluations: int
    stages: int
    drift: float = 0.0


class _Particle(NamedTuple):
    """A particle, with all that was evaluated there: the temperature and the coordinates can change around it."""

    x: State
    log_gamma: Scalar
    score: State
    log_start: Scalar
    start_score: State


class _Population(NamedTuple):
    particles: _Particle
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
    max_stages: int = MOST_STAGES,
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
    dimension. Before them are crossovers, one for every three moves: particles $z$ and $z'$ exchange some of their
    coordinates, accepted by the ratio of $\gamma_\beta(z)\, \gamma_\beta(z')$ after and before. So where parts of a
    point are nearly independent, resampling acts on each by itself; without them, with two modes in each of a hundred
    coordinates, all particles would soon descend from a few, whose proportions of modes are chance. Particles are in
    two halves, and each moves in the coordinates of the other: in its own it would not keep its distribution.
    Proportions of modes have the error of resampled particles. Where the chains do not mix, as in a narrow neck, there
    are too few particles.

    Args:
        key: The random key.
        log_density: The log density, unnormalised. Points where it is not finite are lost in the first stage; if all
            are, `log_z` is not finite, and they are not settled.
        start: The distribution $q$, wide enough to reach all modes.
        count: The number of particles, at least 4.
        mcmc_steps: The number of moves in a stage, at least 1.
        ess_threshold: The share of the particles, in (0, 1).
        max_stages: The most stages, at least 1; the last of them goes to the target whatever the weights are.
        settling: The most further stages at the target itself, until the mean log density does not change.
        gradient: Whether moves use the gradient of the density.

    Returns:
        The particles.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Del Moral, Doucet and Jasra (2006), section 3; Jasra, Stephens, Doucet and Tsagaris (2011), for the steps in
        temperature; Cotter, Roberts, Stuart and White (2013), section 4, for the moves; Liang and Wong (2001),
        Real-parameter evolutionary Monte Carlo, for crossovers; Gilks, Roberts and George (1994), Adaptive direction
        sampling, for moves made by the other particles.

    Example:
        >>> start = Normal(jnp.zeros(2), jnp.array(3.0))
        >>> points = temper(
        ...     jax.random.key(0),
        ...     lambda x: -2 * jnp.sum((jnp.abs(x) - 4) ** 2),
        ...     start,
        ...     1000,
        ... ).points
        >>> round(float(jnp.mean(points[:, 0] > 0)), 1)
        0.5
    """
    numbers = (count, mcmc_steps, max_stages, settling, gradient)
    particles, _ = _tempered(key, log_density, start, numbers, ess_threshold)
    return particles._replace(points=particles.points[:count])


def _tempered(
    key: KeyArray,
    log_density: LogDensity,
    start: Normal | Mixture,
    numbers: tuple[int, int, int, int, bool],
    ess_threshold: float,
) -> tuple[Particles, _Population]:
    """Particles, an even number, and all that is known of them."""
    count, mcmc_steps, max_stages, settling, _ = numbers
    require(count >= 4, "count", count, "at least 4")
    require(mcmc_steps >= 1, "mcmc_steps", mcmc_steps, "at least 1")
    require(0 < ess_threshold < 1, "ess_threshold", ess_threshold, "in (0, 1)")
    require(max_stages >= 1, "max_stages", max_stages, "at least 1")
    require(settling >= 0, "settling", settling, "at least 0")
    population, stages = _temper(log_density, numbers, key, start, ess_threshold)
    particles, _, _, log_z, rise, least, _ = population
    settled = bool(np.isfinite(log_z) & (rise < 2) & (least > COLLAPSED))
    evaluations = len(particles.x) * (int(stages) * (mcmc_steps + _crossovers(mcmc_steps, population.particles.x)) + 1)
    return Particles(particles.x, float(log_z), int(stages), evaluations, settled), population


@typed
def refine(
    key: KeyArray,
    sampler: Sampler,
    log_density: LogDensity,
    count: int,
    *,
    log_weights: LogWeights | None = None,
    precision: float = 0.01,
    mcmc_steps: int = 8,
    ess_threshold: float = 0.9,
    gradient: bool = True,
) -> Refined:
    r"""Turns a sampler's own paths into paths of the target, by tempering in their noise.

    The particles are the standard normal noise $e$ of paths; the tempered density is
    $\mathcal N(e; 0, I)\, w(e)^\beta$. It mends weights with a heavy tail where the sampler roughly knows the geometry.
    The particles begin as paths of the sampler, and it takes moves to reach what these seldom do: while they are few,
    estimates are too small. Where the sampler's own log weights are given, there are further moves at the target, each
    time twice as many, until `dds.estimators.bridge` of both does not change any more.

    Args:
        key: The random key.
        sampler: The sampler.
        log_density: The log density of the target.
        count: The number of particles, at least 4.
        log_weights: Log weights of paths of the sampler.
        precision: The standard error of log Z that is wanted: the bridge rests if it changes by less than a half of
            that, or than its own standard error.
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
        >>> refined = refine(
        ...     jax.random.key(1), sampler, lambda x: -jnp.sum(x**2) / 2, 1000
        ... )
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
    temper_key, further_key = split(key)
    numbers = (count, mcmc_steps, MOST_STAGES, 0, gradient)
    tempered, population = _tempered(temper_key, log_target, start, numbers, ess_threshold)
    particles, log_size = population.particles, population.log_size
    weigh = devices.program(devices.share(path, batch_size=1000))
    points, log_w = weigh(particles.x[:count])
    log_z = tempered.log_z - 0.5 * size * float(np.log(2 * np.pi))
    drift, moves = 0.0, 0
    if log_weights is not None:
        bridge, error = estimators.bridge(log_weights, log_w)
        for i in range(ROUNDS):
            for _ in range(2**i):
                move_key = jax.random.fold_in(further_key, moves)
                particles, log_size = _further(log_target, gradient, move_key, start, particles, log_size)
                moves += FURTHER
            points, log_w = weigh(particles.x[:count])
            before, (bridge, error) = bridge, estimators.bridge(log_weights, log_w)
            drift = abs(float(bridge - before))
            if not drift > max(precision / 2, float(error)):
                break
    each = jax.tree.leaves(sampler.reference.rows)[0].shape[0] + 1
    evaluations = (tempered.evaluations + moves * len(particles.x)) * each
    return Refined(points, log_w, log_z, evaluations, tempered.stages, drift)


@partial(devices.program, static=2, compiler_options=QUICK)
def _temper(
    log_density: LogDensity,
    numbers: tuple[int, int, int, int, bool],
    key: KeyArray,
    start: Normal | Mixture,
    ess_threshold: Scalar,
) -> tuple[_Population, Int[Array, ""]]:
    count, mcmc_steps, max_stages, settling, gradient = numbers
    count += count % 2
    at = partial(_at, log_density, gradient, start)

    def stage(carry):
        i, (particles, beta, log_size, log_z, _, least, done) = carry
        resample_key, cross_key, move_key = jax.random.split(jax.random.fold_in(stages_key, i), 3)
        log_ratios = particles.log_gamma - particles.log_start
        step = jnp.where(i >= max_stages, 1 - beta, _largest_step(log_ratios, 1 - beta, ess_threshold))
        done, beta = done + (beta >= 1), jnp.where(step >= 1 - beta, 1, beta + step)
        weights = jnp.where(step > 0, step * log_ratios, 0)
        log_z += estimators.log_z(weights).value
        least = jnp.minimum(least, estimators.effective_sample_size(weights))
        chosen = estimators.resample(resample_key, weights, count)
        resampled = jax.tree.map(lambda leaf: leaf[chosen], particles)
        before = _cross(cross_key, at, beta, resampled, _crossovers(mcmc_steps, particles.x))
        particles, log_size = _move(move_key, at, beta, before, log_size, mcmc_steps)
        changes = particles.log_gamma - before.log_gamma
        spread = jnp.std(changes) + jnp.finfo(changes.dtype).eps
        rise = jnp.abs(jnp.mean(changes)) / (spread / jnp.sqrt(count))
        return i + 1, _Population(particles, beta, log_size, log_z, rise, least, done)

    def unfinished(carry):
        _, (_, beta, _, log_z, rise, _, done) = carry
        return jnp.isfinite(log_z) & ((beta < 1) | ((rise >= 2) & (done < settling)))

    start_key, stages_key = jax.random.split(key)
    dtype = (start.mean if isinstance(start, Normal) else start.means).dtype
    noise = jax.random.normal(start_key, (count, mixtures.noise_size(start)), dtype)
    particles = devices.share(lambda e: at(mixtures.draw(start, e)))(noise)
    zero = jnp.zeros((), dtype)
    first = _Population(particles, zero, zero, zero, zero, zero + 1, jnp.zeros((), int))
    stages: Any
    stages, population = jax.lax.while_loop(unfinished, stage, (1, first))
    return population, stages - 1


@partial(devices.program, static=2, compiler_options=QUICK)
def _further(
    log_density: LogDensity, gradient: bool, key: KeyArray, start: Normal, particles: _Particle, log_size: Scalar
) -> tuple[_Particle, Scalar]:
    """Particles after further moves at the target, and the step size that they came to."""
    at = partial(_at, log_density, gradient, start)
    return _move(key, at, jnp.ones_like(log_size), particles, log_size, FURTHER)


def _at(log_density: LogDensity, gradient: bool, start: Normal | Mixture, x: State) -> _Particle:
    def with_score(function: LogDensity) -> tuple[Scalar, State]:
        return jax.value_and_grad(function)(x) if gradient else (function(x), jnp.zeros_like(x))

    value, score = with_score(log_density)
    value = jnp.where(jnp.isfinite(value), value, -jnp.inf)
    return _Particle(x, value, score, *with_score(partial(mixtures.log_density, start)))


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


def _halves(particles: Any) -> Any:
    """Particles, or whatever there is of each, in two halves.

    Resampling keeps their order, so copies of one are in the same half, but for those where the halves meet.
    """
    return jax.tree.map(lambda leaf: leaf.reshape(2, -1, *leaf.shape[1:]), particles)


def _whole(halves: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), halves)


def _places(points: Float[Array, "count dim"]) -> Normal:
    """For each half, coordinates in which the other has mean zero and covariance one, or at least variances.

    In coordinates made of themselves particles would not keep their distribution: each would see where it was.
    """
    count, dim = points.shape

    def place(half: Float[Array, "half dim"]) -> Normal:
        mean, variances = jnp.mean(half, axis=0), jnp.var(half, axis=0) + jnp.finfo(half.dtype).tiny
        if dim > DENSE or count < 10 * dim:
            return Normal(mean, jnp.sqrt(variances))
        away = half - mean[None]
        factor = jnp.linalg.cholesky(away.T @ away / len(half) + 1e-6 * jnp.diag(variances))
        return Normal(mean, jnp.where(jnp.isfinite(factor).all(), factor, jnp.diag(jnp.sqrt(variances))))

    return jax.vmap(place)(_halves(points)[::-1])


def _move(
    key: KeyArray,
    at: Callable[[State], _Particle],
    beta: Scalar,
    particles: _Particle,
    log_size: Scalar,
    mcmc_steps: int,
) -> tuple[_Particle, Scalar]:
    """Moves of all particles at one temperature, with one step size."""
    places, halves = _places(particles.x), _halves(particles)

    def step(carry, key):
        chains, log_size = carry
        noise_key, accept_key = jax.random.split(key)
        size = jnp.minimum(jnp.exp(log_size), 2)
        keep = (2 - size) / (2 + size)
        width = jnp.sqrt(1 - keep**2)
        noise = jax.random.normal(noise_key, halves.x.shape, halves.x.dtype)
        uniforms = jax.random.uniform(accept_key, noise.shape[:2], noise.dtype)

        def move(place: Normal, chains: tuple[State, _Particle], noise: Array, uniforms: Array):
            def mean(z: State, particle: _Particle) -> State:
                score = beta * particle.score + (1 - beta) * particle.start_score
                score = score * place.scale if place.scale.ndim < 2 else score @ place.scale
                away = jnp.where(jnp.isfinite(score).all(), z + score, 0)
                length = jnp.sqrt(jnp.mean(away**2))
                return keep * z + (1 - keep) / (1 + width * length) * away

            def one(chain: tuple[State, _Particle], noise: State, uniform: Scalar):
                z, particle = chain
                other = mean(z, particle) + width * noise
                found = at(normal.reparameterise(place, other))
                back = (z - mean(other, found)) / width
                log_rate = _level(beta, found) - _level(beta, particle) + 0.5 * jnp.sum((noise - back) * (noise + back))
                rate = jnp.where(jnp.isnan(log_rate), 0.0, jnp.exp(jnp.minimum(log_rate, 0)))
                return jax.tree.map(partial(jnp.where, uniform < rate), (other, found), chain), rate

            return devices.share(one)(chains, noise, uniforms)

        chains, rates = jax.vmap(move)(places, chains, noise, uniforms)
        return (chains, jnp.minimum(log_size + 0.5 * (jnp.mean(rates) - ACCEPTANCE), jnp.log(2.0))), None

    def inside(place: Normal, points: Float[Array, "half dim"]) -> Float[Array, "half dim"]:
        return jax.vmap(partial(normal.standardise, place))(points)

    chains = (jax.vmap(inside)(places, halves.x), halves)
    ((_, halves), log_size), _ = jax.lax.scan(step, (chains, log_size), jax.random.split(key, mcmc_steps))
    return _whole(halves), log_size


def _crossovers(mcmc_steps: int, points: Float[Array, "count dim"]) -> int:
    """How many crossovers there are before so many moves: none of points that have one coordinate."""
    return max(mcmc_steps // CROSSED, 1) if points.shape[1] > 1 else 0


def _cross(
    key: KeyArray, at: Callable[[State], _Particle], beta: Scalar, particles: _Particle, crossovers: int
) -> _Particle:
    """Particles after crossovers: those of a half are paired, and pairs exchange half of their coordinates, or few."""
    places = _places(particles.x)
    count, dim = particles.x.shape
    pairs = count // 4

    def cross(place: Normal, particles: _Particle, key: KeyArray) -> _Particle:
        order_key, share_key, chosen_key, accept_key = jax.random.split(key, 4)
        order = jax.random.permutation(order_key, count // 2)[: 2 * pairs]
        before = jax.tree.map(lambda leaf: leaf[order], particles)
        shares = 0.5 * dim ** -jax.random.uniform(share_key, (pairs, 1))
        chosen = jnp.tile(jax.random.uniform(chosen_key, (pairs, dim)) < shares, (2, 1))
        z = jax.vmap(partial(normal.standardise, place))(before.x)
        exchanged = jnp.where(chosen, jnp.roll(z, pairs, axis=0), z)
        after = devices.share(lambda z: at(normal.reparameterise(place, z)))(exchanged)
        log_rates = jnp.sum((_level(beta, after) - _level(beta, before)).reshape(2, pairs), axis=0)
        accepted = jnp.tile(jnp.log(jax.random.uniform(accept_key, (pairs,))) < log_rates, 2)

        def choose(whole: Array, new: Array, old: Array) -> Array:
            return whole.at[order].set(jnp.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old))

        return jax.tree.map(choose, particles, after, before)

    def both(halves: _Particle, key: KeyArray) -> tuple[_Particle, None]:
        return jax.vmap(cross)(places, halves, jax.random.split(key)), None

    return _whole(jax.lax.scan(both, _halves(particles), jax.random.split(key, crossovers))[0])


def _level(beta: Scalar, particle: _Particle) -> Scalar:
    """The log of the density at an inverse temperature, of one particle or of all."""
    return beta * particle.log_gamma + (1 - beta) * particle.log_start
