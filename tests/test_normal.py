import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import normal_target

from dds import normal
from dds.types import Normal

SCALES = {"scalar": jnp.array(0.7), "diagonal": jnp.array([0.3, 1.2]), "full": jnp.array([[0.5, 0.0], [0.9, 1.1]])}


@pytest.mark.parametrize("kind", SCALES)
def test_log_density_is_that_of_scipy(float64, kind):
    scale = jnp.asarray(SCALES[kind], jnp.float64)
    factor = np.asarray(scale if scale.ndim == 2 else jnp.diag(jnp.broadcast_to(scale, 2)))
    mean, x = jnp.array([0.2, -0.4]), jnp.array([1.0, 2.0])
    exact = scipy.stats.multivariate_normal(mean, factor @ factor.T).logpdf(x)
    assert normal.log_density(Normal(mean, scale), x) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("kind", SCALES)
def test_standardise_inverts_reparameterise(precision, kind):
    law = Normal(jnp.array([0.2, -0.4]), jnp.asarray(SCALES[kind], precision))
    noise = jnp.array([1.5, -0.5])
    np.testing.assert_allclose(normal.standardise(law, normal.reparameterise(law, noise)), noise, rtol=1e-5)


@pytest.mark.parametrize("p", SCALES)
@pytest.mark.parametrize("q", SCALES)
def test_log_ratio_is_the_difference(float64, p, q):
    x = jnp.array([0.3, 0.8])
    one, other = (
        Normal(jnp.array([m, -m]), jnp.asarray(SCALES[kind], jnp.float64)) for m, kind in ((0.1, p), (0.6, q))
    )
    difference = normal.log_density(one, x) - normal.log_density(other, x)
    assert normal.log_ratio(one, other, x) == pytest.approx(float(difference), rel=1e-10, abs=1e-12)


def test_log_ratio_keeps_precision_in_many_dimensions():
    dim = 1600
    noise = jax.random.normal(jax.random.key(0), (dim,))
    scale = jnp.array(1e-3)
    p, q = Normal(jnp.zeros(dim), scale), Normal(jnp.full(dim, 1e-6), scale)
    x = scale * noise
    r, s = np.asarray(x, np.float64) / 1e-3, (np.asarray(x, np.float64) - 1e-6) / 1e-3
    assert normal.log_ratio(p, q, x) == pytest.approx(np.sum(s**2 - r**2) / 2, abs=1e-5)


def test_full_covariance_of_a_draw():
    mean, covariance = normal_target(3)
    law = Normal(mean, jnp.linalg.cholesky(covariance))
    x = jax.vmap(lambda noise: normal.reparameterise(law, noise))(jax.random.normal(jax.random.key(0), (100_000, 3)))
    np.testing.assert_allclose(np.cov(np.asarray(x).T), covariance, atol=6 * 3 / np.sqrt(100_000))
