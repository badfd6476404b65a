"""Coordinates in which a target looks like the reference: exact for normal targets, harmless for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import normal_target, shifted_normal_density

from dds import coordinates, kernels, losses, paths, references, schedules
from dds.types import Normal, Sampler

LOG_Z = 3.25


@pytest.mark.parametrize(("seed", "dim"), [(0, 1), (1, 3), (595, 3)])
def test_laplace_of_a_normal_target_is_itself(seed, dim):
    with jax.enable_x64(True):
        mean, covariance = normal_target(dim, seed)
        fit = coordinates.laplace(shifted_normal_density(mean, covariance, LOG_Z), jnp.zeros(dim))
        np.testing.assert_allclose(fit.mean, mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(fit.scale, jnp.linalg.cholesky(covariance), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("seed", "dim"), [(0, 1), (1, 3), (595, 3)])
def test_a_normal_target_in_its_own_coordinates_is_the_reference_so_weights_are_constant(float64, seed, dim):
    mean, covariance = normal_target(dim, seed)
    fractions = schedules.constant(4, total=2.0)
    reference = references.ou(fractions, dim)
    kernel = kernels.denoising(fractions, lambda y, k: jnp.zeros_like(y))
    sampler = Sampler(reference.start, reference, kernel, Normal(mean, jnp.linalg.cholesky(covariance)))
    path = paths.sample_path(jax.random.key(seed), sampler)
    weight = losses.log_weight(path, shifted_normal_density(mean, covariance, LOG_Z))
    assert weight == pytest.approx(LOG_Z, abs=1e-9)


def test_laplace_of_a_density_without_a_mode():
    with pytest.raises(ValueError, match="negative Hessian of log_density at the mode must be positive definite"):
        coordinates.laplace(lambda x: x[0] - x[1] ** 2, jnp.zeros(2), iterations=5)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        coordinates.laplace(lambda x: -(x @ x), jnp.zeros(2), iterations=0)


@pytest.mark.parametrize(("mean", "scale"), [(1.0, 2.0), (-0.5, 0.05)])
def test_variational_fit_is_the_one_of_calculus(mean, scale):
    # log gamma = x - e^x in every coordinate: m - e^{m + s^2 / 2} + log s is largest at m = -1/2, s = 1. The mode is 0.
    fit = coordinates.variational(
        jax.random.key(0), lambda x: jnp.sum(x - jnp.exp(x)), Normal(jnp.full(3, mean), jnp.array(scale)), draws=256
    )
    np.testing.assert_allclose(fit.mean, -0.5, atol=0.05)
    np.testing.assert_allclose(fit.scale, np.eye(3), atol=0.05)


def test_options_of_variational():
    start = Normal(jnp.zeros(1), jnp.ones(()))
    for options, words in [({"iterations": 0}, "iterations"), ({"draws": 3}, "draws"), ({"draws": 0}, "draws")]:
        with pytest.raises(ValueError, match=f"{words} must be"):
            coordinates.variational(jax.random.key(0), lambda x: -(x @ x), start, **options)


def test_moments(float64):
    mean, covariance = normal_target(3)
    samples = scipy.stats.multivariate_normal(mean, covariance).rvs(500, random_state=0)
    fit = coordinates.moments(jnp.asarray(samples))
    np.testing.assert_allclose(fit.mean, samples.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(fit.scale @ fit.scale.T, np.cov(samples.T), rtol=1e-10)
    of_numpy = coordinates.moments(samples)
    np.testing.assert_array_equal(of_numpy.scale, fit.scale)
    assert isinstance(of_numpy.mean, jax.Array)
    with pytest.raises(ValueError, match="samples must be more than the dimension, 3, got 3 of them"):
        coordinates.moments(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="covariance of samples must be positive definite"):
        coordinates.moments(jnp.ones((4, 2)))


def test_independent_components_are_found(float64):
    # Skewed, bimodal, heavy-tailed and flat ones, turned; a component is known up to its sign and place.
    rng = np.random.default_rng(0)
    count, dim = 4000, 8
    wells = np.where(rng.random((count, 2)) < 0.15, -1.7, 1.7) + 0.3 * rng.normal(size=(count, 2))
    others = rng.exponential(size=(count, 2)), rng.laplace(size=(count, 2)), rng.uniform(size=(count, 2))
    independent = np.concatenate([wells, *others], axis=1)
    mixed = independent @ rng.normal(size=(dim, dim))
    fit = coordinates.moments(mixed)
    z = np.linalg.solve(fit.scale, (mixed - np.asarray(fit.mean)).T).T
    rotation = coordinates.independent(z)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(dim), atol=1e-12)
    alike = np.abs(np.corrcoef((z @ rotation.T).T, independent.T)[:dim, dim:])
    # An error of each angle of about one over the square root of the count.
    assert np.all(np.max(alike, axis=0) > 1 - 2 * dim / count)
    assert sorted(np.argmax(alike, axis=0)) == list(range(dim))
    with pytest.raises(ValueError, match="samples must be finite"):
        coordinates.independent(np.full((4, 2), np.nan))


def test_where_the_fit_fails_it_is_the_start():
    # A kink has no curvature, so the steps of the fit lead nowhere.
    def kinked(x):
        return -50 * jnp.sum(jnp.abs(x))

    start = Normal(jnp.array([0.5, -0.3]), 3 * jnp.eye(2))
    fit = coordinates.variational(jax.random.key(0), kinked, start)
    assert jax.tree.all(jax.tree.map(np.array_equal, fit, start))
