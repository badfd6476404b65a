import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import normal_target

from dds.targets import gaussian, gaussian_mixture

MEANS = np.array([[-2.0, 0.0], [1.0, 3.0], [2.0, -1.0]])
WEIGHTS = np.array([1.0, 2.0, 5.0])
FACTORS = np.array([[[1.0, 0.0], [0.5, 0.7]], [[0.3, 0.0], [0.0, 2.0]], [[1.5, 0.0], [-1.0, 0.4]]])


def test_gaussian_density_is_that_of_scipy(float64):
    mean, covariance = normal_target(4)
    points = np.random.default_rng(0).normal(size=(20, 4))
    ours = jax.vmap(gaussian(mean, covariance).log_density)(points)
    np.testing.assert_allclose(ours, scipy.stats.multivariate_normal(mean, covariance).logpdf(points), rtol=1e-10)


def test_gaussian_sampler_has_mean_and_covariance():
    mean, covariance = normal_target(3)
    x = np.asarray(jax.vmap(gaussian(mean, covariance).sample)(jax.random.split(jax.random.key(0), 100_000)))
    standardised = np.linalg.solve(np.linalg.cholesky(covariance), (x - np.asarray(mean)).T)
    for row in standardised:
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-6
    assert np.abs(np.cov(standardised) - np.eye(3)).max() < 6 * np.sqrt(2 / len(x))


@pytest.mark.parametrize("kind", ["one", "diagonal", "full"])
def test_mixture_density_and_sampler_are_those_of_scipy(float64, kind):
    diagonals = np.diagonal(FACTORS, axis1=1, axis2=2)
    scales = {"one": diagonals[:, 0], "diagonal": diagonals, "full": FACTORS}[kind]
    full = {"one": diagonals[:, :1, None] * np.eye(2), "diagonal": diagonals[:, None] * np.eye(2), "full": FACTORS}[
        kind
    ]
    target = gaussian_mixture(jnp.asarray(MEANS), jnp.asarray(scales), jnp.asarray(WEIGHTS))
    parts = [scipy.stats.multivariate_normal(m, s @ s.T) for m, s in zip(MEANS, full, strict=True)]

    points = np.random.default_rng(0).normal(size=(20, 2)) * 3
    exact = np.log(sum(w * part.pdf(points) for w, part in zip(WEIGHTS / 8, parts, strict=True)))
    np.testing.assert_allclose(jax.vmap(target.log_density)(points), exact, rtol=1e-10)

    x = np.asarray(jax.vmap(target.sample)(jax.random.split(jax.random.key(0), 50_000)))
    spreads = [np.sqrt((factor @ factor.T)[0, 0]) for factor in full]

    def cdf(t):
        return scipy.stats.norm.cdf(np.expand_dims(t, -1), MEANS[:, 0], spreads) @ (WEIGHTS / 8)

    assert scipy.stats.kstest(x[:, 0], cdf).pvalue > 1e-6
