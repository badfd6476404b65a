import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import normal_target

from dds import normal, targets
from dds.types import Bijection, Normal

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
    distribution = Normal(jnp.array([0.2, -0.4]), jnp.asarray(SCALES[kind], precision))
    noise = jnp.array([1.5, -0.5])
    np.testing.assert_allclose(
        normal.standardise(distribution, normal.reparameterise(distribution, noise)), noise, rtol=1e-5
    )


@pytest.mark.parametrize("outer", SCALES)
@pytest.mark.parametrize("inner", SCALES)
def test_compose_is_one_map_after_the_other(float64, outer, inner):
    one, other = (
        Normal(jnp.array([m, -2 * m]), jnp.asarray(SCALES[kind], jnp.float64))
        for m, kind in ((0.1, outer), (0.6, inner))
    )
    both, noise = normal.compose(one, other), jnp.array([1.5, -0.5])
    direct = normal.reparameterise(one, normal.reparameterise(other, noise))
    np.testing.assert_allclose(normal.reparameterise(both, noise), direct, rtol=1e-12)
    volume = normal.log_determinant(one) + normal.log_determinant(other)
    assert normal.log_determinant(both) == pytest.approx(float(volume), rel=1e-12)
    assert both.scale.ndim == max(one.scale.ndim, other.scale.ndim)


def test_compose_with_a_bijection(float64):
    # Squares of positive numbers, after an affine map.
    square = Bijection(2, lambda y: (y**2, jnp.sum(jnp.log(2 * y))), lambda x: (x**0.5, jnp.sum(jnp.log(4 * x)) / 2))
    affine = Normal(jnp.array([3.0, 4.0]), jnp.array([[0.5, 0.0], [-0.2, 0.4]]))
    both, y = normal.compose(square, affine), jnp.array([0.7, -0.5])
    x, log_determinant = both.forward(y)
    np.testing.assert_allclose(x, normal.reparameterise(affine, y) ** 2, rtol=1e-12)
    exact = np.linalg.slogdet(np.asarray(jax.jacobian(lambda y: both.forward(y)[0])(y)))[1]
    back, again = both.inverse(x)
    np.testing.assert_allclose(back, y, rtol=1e-12)
    np.testing.assert_allclose([log_determinant, again], exact, rtol=1e-12)


@pytest.mark.parametrize("scale", [jnp.array(2.0), jnp.array([0.5, 3.0]), jnp.array([[0.5, 0.0], [-1.0, 3.0]])])
def test_pull_back_keeps_the_mass(float64, scale):
    # On a grid in two dimensions the density in other coordinates integrates to what the density does.
    target = targets.gaussian_mixture(jnp.array([[-1.0, 0.5], [1.0, -0.3]]), jnp.array([0.8, 1.1]))
    moved = normal.pull_back(Normal(jnp.array([0.3, -0.2]), jnp.asarray(scale, float)), target.log_density)
    axis = np.linspace(-25, 25, 1001)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = jnp.sum(jnp.exp(jax.vmap(moved)(grid))) * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-6)


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


def test_log_ratio_of_two_points_keeps_precision_far_out():
    start, end = np.array([1e5, -3.0], np.float32), np.array([1e5 + 0.0625, 2.0], np.float32)
    exact = (np.sum(end.astype(float) ** 2) - np.sum(start.astype(float) ** 2)) / 2
    standard = normal.standard(2)
    assert normal.log_ratio(standard, standard, start, end) == pytest.approx(exact, rel=1e-6)


def test_full_covariance_of_a_draw():
    mean, covariance = normal_target(3)
    distribution = Normal(mean, jnp.linalg.cholesky(covariance))
    noise = jax.random.normal(jax.random.key(0), (100_000, 3))
    x = jax.vmap(lambda noise: normal.reparameterise(distribution, noise))(noise)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), covariance, atol=6 * 3 / np.sqrt(100_000))
