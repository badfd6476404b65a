import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dds.targets import funnel


@settings(deadline=None, max_examples=20)
@given(dim=st.sampled_from([2, 3, 5, 10, 30]), scale=st.floats(0.3, 4.0))
def test_density_integrates_to_one(dim, scale):
    # It depends on the other coordinates through their norm alone: Gauss-Legendre rules for v and for the norm.
    nodes, weights = np.polynomial.legendre.leggauss(100)
    v = 9 * scale * nodes
    ratio = (np.sqrt(dim) + 9) / 2 * (nodes + 1)  # of the norm to exp(v / 2)
    v_grid, radius = np.broadcast_arrays(v[:, None], np.exp(v[:, None] / 2) * ratio)
    points = np.zeros((v_grid.size, dim))
    points[:, 0], points[:, 1] = v_grid.ravel(), radius.ravel()
    with jax.enable_x64(True):
        log_values = np.asarray(jax.jit(jax.vmap(funnel(dim, scale=scale).log_density))(points)).reshape(v_grid.shape)
    n = dim - 1
    log_sphere = np.log(2) + n / 2 * np.log(np.pi) - scipy.special.gammaln(n / 2)
    integrand = np.exp(log_values + log_sphere + (n - 1) * np.log(radius) + v_grid / 2)
    integral = 9 * scale * (np.sqrt(dim) + 9) / 2 * weights @ integrand @ weights
    assert integral == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("dim", "scale"), [(2, 3.0), (10, 3.0), (5, 0.5)])
def test_sampler_follows_the_density(dim, scale):
    target = funnel(dim, scale=scale)
    x = np.asarray(jax.vmap(target.sample)(jax.random.split(jax.random.key(1), 100_000)), dtype=np.float64)
    v, ratio = x[:, 0], x[:, 1:] / np.exp(x[:, :1] / 2)
    assert scipy.stats.kstest(v / scale, "norm").pvalue > 1e-6
    for column in ratio.T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-6
    # Independence of v and the ratio, which the marginals do not show.
    correlation = np.corrcoef(v**2, ratio[:, 0] ** 2)[0, 1]
    assert abs(correlation) < 6 / np.sqrt(len(v))


@pytest.mark.parametrize("v", [-40.0, -12.0, -3.0, 0.0, 3.0, 12.0, 40.0])
def test_value_and_gradient_match_the_closed_form_far_out(precision, v):
    dim, scale = 10, 3.0
    x = np.exp(v / 2) * np.linspace(-2, 2, dim - 1)
    point = jnp.asarray(np.concatenate([[v], x]))
    value, gradient = jax.value_and_grad(funnel(dim, scale=scale).log_density)(point)

    log_value = scipy.stats.norm.logpdf(v, 0, scale) + scipy.stats.norm.logpdf(x, 0, np.exp(v / 2)).sum()
    in_v = -v / scale**2 + 0.5 * np.sum(x**2 * np.exp(-v)) - 0.5 * (dim - 1)
    exact = np.concatenate([[in_v], -x * np.exp(-v)])
    tolerance = {"float32": 1e-5, "float64": 1e-12}[precision]
    assert value.dtype == precision
    np.testing.assert_allclose(value, log_value, rtol=tolerance)
    # Rounding of v itself moves exp(-v) by |v| roundings.
    np.testing.assert_allclose(gradient, exact, rtol=(1 + abs(v)) * tolerance, atol=(1 + abs(v)) * tolerance)


def test_two_coordinates_are_distributed_as_the_funnel_in_the_plane():
    x = jax.vmap(funnel(10).sample)(jax.random.split(jax.random.key(0), 50_000))[:, :2]
    y = jax.vmap(funnel(2).sample)(jax.random.split(jax.random.key(1), 50_000))
    for column in (0, 1):
        assert scipy.stats.ks_2samp(np.asarray(x[:, column]), np.asarray(y[:, column])).pvalue > 1e-6
