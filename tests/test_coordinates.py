"""Coordinates in which a target looks like the reference: exact for normal laws, harmless for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import normal_target, shifted_normal_density

from dds import losses, normal, ou, reversal, sampler, schedules, targets, whitening
from dds.types import Normal, Sampler, Target

LOG_Z = 3.25


@pytest.mark.parametrize(("seed", "dim"), [(0, 1), (1, 3), (595, 3)])
def test_a_whitened_normal_law_is_the_reference_so_weights_are_constant(seed, dim):
    with jax.enable_x64(True):
        mean, covariance = normal_target(dim, seed)
        target = Target(dim, shifted_normal_density(mean, covariance, LOG_Z), None, LOG_Z)
        law = whitening.laplace(target.log_density, jnp.zeros(dim))
        np.testing.assert_allclose(law.mean, mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(law.scale, jnp.linalg.cholesky(covariance), rtol=1e-6, atol=1e-8)
        exact = whitening.whiten(target, Normal(mean, jnp.linalg.cholesky(covariance)))
        reference = ou.process(schedules.constant(4, total=2.0), 1.0)
        zero = reversal.denoising_kernel(reference, lambda y, k: jnp.zeros_like(y))
        path = sampler.sample_path(jax.random.key(seed), Sampler(ou.stationary(reference, dim), reference, zero))
        assert losses.log_weight(path, reference, exact.log_density) == pytest.approx(LOG_Z, abs=1e-9)


@pytest.mark.parametrize("scale", [jnp.array(2.0), jnp.array([0.5, 3.0]), jnp.array([[0.5, 0.0], [-1.0, 3.0]])])
def test_change_of_variables_keeps_the_mass(float64, scale):
    # On a grid in two dimensions the whitened density integrates to what the density does.
    target = targets.gaussian_mixture(jnp.array([[-1.0, 0.5], [1.0, -0.3]]), jnp.array([0.8, 1.1]))
    moved = whitening.whiten(target, Normal(jnp.array([0.3, -0.2]), scale))
    axis = np.linspace(-25, 25, 1001)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = jnp.sum(jnp.exp(jax.vmap(moved.log_density)(grid))) * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-6)


def test_sampler_of_the_whitened_target_is_that_of_the_target_moved():
    law = Normal(jnp.array([0.3, -0.2]), jnp.array([[0.5, 0.0], [-1.0, 3.0]]))
    target = targets.funnel(2)
    moved = whitening.whiten(target, law)
    key = jax.random.key(0)
    np.testing.assert_allclose(normal.reparameterise(law, moved.sample(key)), target.sample(key), rtol=1e-5, atol=1e-5)
    assert moved.log_z == 0
    assert whitening.whiten(Target(2, target.log_density), law).sample is None


def test_laplace_of_a_density_without_a_mode():
    with pytest.raises(ValueError, match="negative Hessian of log_density at the mode must be positive definite"):
        whitening.laplace(lambda x: x[0] - x[1] ** 2, jnp.zeros(2), iterations=5)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        whitening.laplace(lambda x: -(x @ x), jnp.zeros(2), iterations=0)


@pytest.mark.parametrize(("mean", "scale"), [(1.0, 2.0), (-0.5, 0.05)])
def test_variational_law_is_the_one_of_calculus(mean, scale):
    # log gamma = x - e^x in every coordinate: m - e^{m + s^2 / 2} + log s is largest at m = -1/2, s = 1. The mode is 0.
    law = whitening.variational(
        jax.random.key(0), lambda x: jnp.sum(x - jnp.exp(x)), Normal(jnp.full(3, mean), jnp.array(scale)), draws=256
    )
    np.testing.assert_allclose(law.mean, -0.5, atol=0.05)
    np.testing.assert_allclose(law.scale, np.eye(3), atol=0.05)


def test_options_of_variational():
    start = Normal(jnp.zeros(1), jnp.ones(()))
    for options, words in [({"iterations": 0}, "iterations"), ({"draws": 3}, "draws"), ({"draws": 0}, "draws")]:
        with pytest.raises(ValueError, match=f"{words} must be"):
            whitening.variational(jax.random.key(0), lambda x: -(x @ x), start, **options)


def test_moments(float64):
    mean, covariance = normal_target(3)
    samples = scipy.stats.multivariate_normal(mean, covariance).rvs(500, random_state=0)
    law = whitening.moments(jnp.asarray(samples))
    np.testing.assert_allclose(law.mean, samples.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(law.scale @ law.scale.T, np.cov(samples.T), rtol=1e-10)
    with pytest.raises(ValueError, match="samples must be more than the dimension, 3, got 3 of them"):
        whitening.moments(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="covariance of samples must be positive definite"):
        whitening.moments(jnp.ones((4, 2)))


def test_automatic_finds_a_posterior_and_leaves_many_modes_alone():
    start = Normal(jnp.zeros(5), jnp.ones(()))
    features = jnp.asarray(np.random.default_rng(0).normal(size=(30, 4)))
    posterior = targets.logistic_regression(features, (features[:, 0] > 0).astype(float))
    assert whitening.automatic(jax.random.key(0), posterior.log_density, start) is not start
    wells = targets.many_well(16)
    start = Normal(jnp.zeros(16), jnp.array(2.0))
    assert whitening.automatic(jax.random.key(0), wells.log_density, start) is start


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_automatic_tells_a_funnel_from_a_ring(seed):
    # A flat bound is not several modes; a ring of modes around the start, which a wide law covers, is.
    start = Normal(jnp.zeros(4), jnp.ones(()))
    assert whitening.automatic(jax.random.key(seed), targets.funnel(4).log_density, start) is not start
    angles = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
    ring = targets.gaussian_mixture(3 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1), jnp.full(8, 0.5))
    start = Normal(jnp.zeros(2), jnp.array(3.0))
    assert whitening.automatic(jax.random.key(seed), ring.log_density, start) is start


def test_automatic_prefers_a_wide_law_to_a_narrow_start():
    # Without the entropy in the bound the narrow one would win: its mean log density is higher.
    start = Normal(jnp.zeros(2), jnp.array(0.05))
    law = whitening.automatic(jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2) / 9, start)
    assert law is not start
    np.testing.assert_allclose(law.scale, 3 * np.eye(2), atol=1e-2)


def test_automatic_in_many_dimensions_is_laplace():
    dim = whitening.DENSE + 1
    start = Normal(jnp.zeros(dim), jnp.ones(()))
    law = whitening.automatic(jax.random.key(0), lambda x: -0.5 * jnp.sum((x - 3) ** 2) / 4, start)
    np.testing.assert_allclose(law.mean, 3, rtol=1e-3)
    np.testing.assert_allclose(law.scale, 2 * np.eye(dim), atol=1e-3)
    # No mode: the start.
    assert whitening.automatic(jax.random.key(0), lambda x: jnp.sum(x), start) is start
