"""Tempered particles, and what they say of a sampler that misses a part of the target."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import log_weights

from dds import coordinates, estimators, families, kernels, losses, normal, paths, references, schedules, smc, targets
from dds.evaluation import summarise
from dds.trust import findings
from dds.types import Normal, Sampler


@pytest.mark.slow
def test_particles_are_distributed_as_the_target():
    # Against exact samples, modes of unequal mass included: five standard errors, at the size that resampling leaves.
    # A quartic density shows at once if proposals are not rejected as they should be.
    target = targets.many_well(4)
    start = Normal(jnp.full(4, 0.5), jnp.array(2.0))
    points = smc.temper(jax.random.key(0), target.log_density, start, 8000).points
    exact = jax.vmap(target.sample)(jax.random.split(jax.random.key(1), 8000))
    for f in (lambda x: x > 0, jnp.abs, jnp.square, jnp.cos):
        one, two = np.asarray(f(points), float), np.asarray(f(exact), float)
        error = np.sqrt((5 * one.var(axis=0) + two.var(axis=0)) / 8000)
        assert np.all(np.abs(one.mean(axis=0) - two.mean(axis=0)) < 5 * error)


@pytest.mark.slow
def test_particles_do_not_move_towards_their_own_mean():
    # 160 exact samples in 16 dimensions: in coordinates made of themselves their mean square would be pulled to that
    # in which their own is one, 4% below the truth.
    log_density, count = partial(normal.log_density, normal.standard(16)), 160
    at = partial(smc._at, log_density, True, normal.standard(16))

    def moved(key, move):
        draw_key, move_key = jax.random.split(key)
        particles = jax.vmap(at)(jax.random.normal(draw_key, (count, 16)))
        return jnp.mean(move(move_key, particles).x ** 2)

    def move(key, particles):
        return smc._move(key, at, jnp.ones(()), particles, jnp.zeros(()), 1)[0]

    def cross(key, particles):
        return smc._cross(key, at, jnp.ones(()), particles, 10)

    for each in (move, cross):
        squares = jax.jit(jax.vmap(partial(moved, move=each)))(jax.random.split(jax.random.key(0), 50))
        assert abs(np.mean(squares) - 1) < 5 * np.std(squares) / np.sqrt(50)


@pytest.mark.slow
def test_few_particles_in_many_dimensions_do_not_make_log_z_too_large():
    # Ten particles for each dimension, six keys.
    covariance = np.diag(np.logspace(-2, 0, 16))
    target, start = targets.gaussian(jnp.zeros(16), jnp.asarray(covariance)), Normal(jnp.ones(16), jnp.array(2.0))
    log_zs = [smc.temper(jax.random.key(i), target.log_density, start, 160).log_z for i in range(6)]
    assert abs(np.mean(log_zs)) < 5 * np.std(log_zs) / np.sqrt(5)


@pytest.mark.slow
def test_particles_know_log_z_of_a_flow():
    # No other means here do. With particles in coordinates of their own it was .6 too large with each of two keys.
    target = targets.nice_digits()
    assert target.start is not None
    log_z = smc.temper(jax.random.key(0), target.log_density, target.start, 4000, mcmc_steps=50).log_z
    assert log_z == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("count", [4, 7])
def test_any_number_of_particles(count):
    assert smc.temper(jax.random.key(0), lambda x: -(x @ x), normal.standard(2), count).points.shape == (count, 2)


@pytest.mark.slow
def test_crossovers_leave_particles_distributed_as_they_were():
    # Exact samples of correlated coordinates with two modes, which most exchanges would spoil.
    means = jnp.array([[-2.0, -2.0, 0.0], [2.0, 2.0, 1.0]])
    target = targets.gaussian_mixture(means, jnp.array([0.5, 1.0]), jnp.array([1.0, 3.0]))
    at = partial(smc._at, target.log_density, True, Normal(jnp.zeros(3), jnp.array(3.0)))
    exact = jax.vmap(target.sample)(jax.random.split(jax.random.key(0), 20_000))
    cross = jax.jit(lambda key, particles, count: smc._cross(key, at, jnp.ones(()), particles, count), static_argnums=2)
    before = jax.jit(jax.vmap(at))(exact)
    once, crossed = (cross(jax.random.key(1), before, count) for count in (1, 10))
    assert 0.1 < jnp.mean((once.x != before.x).any(axis=1)) < 0.7
    np.testing.assert_allclose(crossed.log_gamma, jax.vmap(target.log_density)(crossed.x), rtol=1e-4)
    for f in (lambda x: x, jnp.abs, lambda x: x * jnp.roll(x, 1, axis=1), lambda x: (x > 0).astype(float)):
        one, two = np.asarray(f(crossed.x), float), np.asarray(f(exact), float)
        assert np.all(np.abs(one.mean(axis=0) - two.mean(axis=0)) < 5 * np.sqrt(2 / 20_000) * two.std(axis=0))


@pytest.mark.slow
def test_proportions_of_many_independent_modes(monkeypatch):
    # In each of a hundred double wells .156 of the particles are to be left; without crossovers they are copies.
    target, spread = targets.many_well(200), []
    assert target.start is not None
    for crossovers in (3, 0):
        monkeypatch.setattr(smc, "_crossovers", lambda *arguments, crossovers=crossovers: crossovers)
        # Another function each time, or the program of the first would serve both.
        particles = smc.temper(jax.random.key(0), lambda x: target.log_density(x), target.start, 500)
        spread.append(np.std(np.mean(np.asarray(particles.points[:, ::2]) < 0, axis=0)))
    assert spread[0] < 0.1
    assert spread[1] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [True, False])
def test_particles_of_a_narrow_normal_target(gradient):
    mean, covariance = jnp.array([3.0, 2.0]), jnp.array([[9.0, 8.7], [8.7, 8.5]])
    start, target = Normal(jnp.zeros(2), jnp.array(4.0)), targets.gaussian(mean, covariance)
    options = {"mcmc_steps": 50, "gradient": gradient}
    points = np.asarray(smc.temper(jax.random.key(0), target.log_density, start, 4000, **options).points)
    error = np.sqrt(5 * np.diagonal(covariance) / 4000)
    assert np.all(np.abs(points.mean(axis=0) - mean) < 5 * error)
    np.testing.assert_allclose(np.cov(points.T), covariance, rtol=5 * np.sqrt(2 * 5 / 4000))


@pytest.mark.slow
def test_particles_settle_only_once_they_have_arrived():
    start = Normal(jnp.zeros(2), jnp.array(1.0))
    options = {"max_stages": 1, "mcmc_steps": 1}

    def far(x):
        return -0.5 * jnp.sum((x - 50) ** 2)

    assert not smc.temper(jax.random.key(0), far, start, 200, **options).settled
    near = smc.temper(jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), start, 200, settling=20, **options)
    assert near.settled
    assert near.stages <= 21


@pytest.mark.slow
def test_refined_paths_are_of_the_target():
    # A sampler that is too wide by a half, of two coordinates; the bridge of both kinds of paths is right.
    family = families.importance(Normal(jnp.ones(2), jnp.array(1.5)))
    sampler = family.sampler(family.init(jax.random.key(0)))

    def log_density(x):
        return -0.5 * jnp.sum(x**2)

    refined = smc.refine(jax.random.key(1), sampler, log_density, 4000)
    points = np.asarray(refined.points)
    assert np.all(np.abs(points.mean(axis=0)) < 5 * np.sqrt(3 / 4000))
    np.testing.assert_allclose(points.std(axis=0), 1, atol=5 * np.sqrt(3 / 8000))
    own = log_weights(jax.random.key(2), sampler, log_density, 4000)
    bridge = estimators.bridge(own, refined.log_weights)
    for estimate in (bridge.value, refined.log_z):
        assert estimate == pytest.approx(np.log(2 * np.pi), abs=0.1)


@pytest.mark.slow
def test_refined_paths_move_until_the_bridge_rests(monkeypatch):
    # A target with heavier tails than the sampler in each of twenty coordinates: paths reach them only step by step.
    family = families.importance(normal.standard(20))
    sampler = family.sampler(())

    def log_density(x):
        return -jnp.sum(jnp.abs(x)) - 20 * jnp.log(2)

    own = log_weights(jax.random.key(7), sampler, log_density, 10_000)
    further, seen = smc._further, []

    def watched(*arguments):
        moved, log_size = further(*arguments)
        seen.extend([arguments[4].x, moved.x])
        return moved, log_size

    monkeypatch.setattr(smc, "_further", watched)
    few = smc.refine(jax.random.key(2), sampler, log_density, 1000, mcmc_steps=1)
    assert not seen
    more = smc.refine(jax.random.key(2), sampler, log_density, 1000, mcmc_steps=1, log_weights=own)
    assert few.drift == 0
    assert (more.log_z, more.stages) == (few.log_z, few.stages)
    before, after = (estimators.bridge(own, each.log_weights) for each in (few, more))
    assert float(before.value) < -5 * float(before.standard_error)
    assert abs(float(after.value)) < 4 * float(after.standard_error)
    # Each move starts where the last one ended.
    assert all(np.array_equal(*pair) for pair in zip(seen[1:-1:2], seen[2::2], strict=True))
    # It went on only while it had not come to rest.
    rounds = (more.evaluations - few.evaluations) / (1000 * smc.FURTHER)
    assert rounds in (1, 3, 7)
    assert rounds == 7 or more.drift <= max(0.005, float(after.standard_error))


def test_points_without_density_are_lost():
    def log_density(x):
        return jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), -jnp.inf)

    start = Normal(jnp.zeros(2), jnp.array(1.0))
    assert np.all(smc.temper(jax.random.key(0), log_density, start, 500).points[:, 0] > 0)


@pytest.mark.slow
def test_the_last_stage_goes_to_the_target():
    start = Normal(jnp.zeros(1), jnp.array(1.0))

    def log_density(x):
        return -50 * jnp.sum((x - 3) ** 2)

    one, many = (
        smc.temper(jax.random.key(0), log_density, start, 500, max_stages=n, mcmc_steps=1).points for n in (1, 500)
    )
    assert np.mean(one) > 2
    assert not np.array_equal(one, many)


@pytest.mark.parametrize(
    ("option", "value"),
    [("count", 3), ("mcmc_steps", 0), ("ess_threshold", 1.0), ("ess_threshold", 0.0), ("max_stages", 0)],
)
def test_options_of_temper(option, value):
    start = Normal(jnp.zeros(1), jnp.ones(()))
    options = {"count": 10, option: value}
    with pytest.raises(ValueError, match=f"{option} must be"):
        smc.temper(jax.random.key(0), lambda x: -(x @ x), start, **options)


def test_particles_of_a_density_that_is_nowhere_finite_do_not_settle():
    start = Normal(jnp.zeros(2), jnp.ones(()))
    particles = smc.temper(jax.random.key(0), lambda x: jnp.nan * jnp.sum(x), start, 10)
    assert not particles.settled
    assert particles.stages == 1
    assert not np.isfinite(particles.log_z)


@pytest.mark.slow
def test_log_z_of_the_particles():
    start, target = Normal(jnp.zeros(2), jnp.array(3.0)), targets.gaussian(jnp.ones(2), 0.3 * jnp.eye(2))
    particles = smc.temper(jax.random.key(0), lambda x: target.log_density(x) + 4, start, 4000)
    assert particles.log_z == pytest.approx(4, abs=0.1)
    assert particles.evaluations == (13 * particles.stages + 1) * 4000  # ten moves, three crossovers


def doubts(report):
    return [finding.consequence for finding in findings(report) if not finding.holds]


def figures_of(sampler, target, start):
    log_w = log_weights(jax.random.key(0), sampler, target.log_density, 10_000)
    points = smc.temper(jax.random.key(1), target.log_density, start, 200).points

    @jax.jit
    @jax.vmap
    def back(key, x):
        return losses.log_weight(paths.noise_path(key, sampler, x), target.log_density)

    return summarise(log_w, explored_log_weights=back(jax.random.split(jax.random.key(2), 200), points))


@pytest.mark.slow
def test_a_sampler_that_sees_only_right_hand_wells_is_found_out():
    # Its weights look fine: a high effective sample size, a light tail, and a log Z that is off by 2 log 0.844.
    target = targets.many_well(4)
    right = coordinates.laplace(target.log_density, jnp.tile(jnp.array([1.7, 0.0]), 2))
    fractions, covariance = schedules.cosine(16, total=4.0), right.scale @ right.scale.T
    kernel = kernels.gaussian(fractions, right.mean, covariance)
    prior = kernels.gaussian_marginal(fractions, right.mean, covariance)
    place = Normal(jnp.zeros(4), jnp.ones(()))
    sampler = Sampler(prior, references.ou(fractions, 4), kernel, place)
    figures = figures_of(sampler, target, Normal(jnp.zeros(4), jnp.array(2.0)))
    assert figures.ess > 0.4  # from 0.5 to 0.8 over seeds
    assert figures.pareto_k < 0.7
    assert figures.log_z == pytest.approx(target.log_z + 2 * np.log(0.844), abs=0.03)
    # The share of points with a left-hand well, with three errors of 200 independent points.
    assert figures.missed_mass == pytest.approx(1 - 0.844**2, abs=0.1)
    (reason,) = doubts(figures)
    assert "found by other means" in reason


@pytest.mark.slow
def test_a_sampler_that_misses_nothing_is_not_suspected():
    mean, covariance = jnp.array([1.0, -2.0]), jnp.array([[2.0, 0.5], [0.5, 1.0]])
    target, place = targets.gaussian(1.5 * mean, 2.25 * covariance), Normal(jnp.zeros(2), jnp.array(1.5))
    fractions = schedules.cosine(32, total=3.0)
    reference = references.ou(fractions, 2)
    kernel = kernels.denoising(fractions, kernels.gaussian_control(fractions, mean, covariance))
    figures = figures_of(Sampler(reference.start, reference, kernel, place), target, place)
    assert figures.ess < 0.99  # nor is it perfect
    assert figures.missed_mass < 0.02
    assert doubts(figures) == []
