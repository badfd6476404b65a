"""Modes of a density: where they are, how heavy, how often they were found, and mixtures around them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import normal_target, shifted_normal_density

from dds import modes, normal
from dds.modes import Modes
from dds.targets import gaussian_mixture
from dds.types import Normal

LOG_Z = 5.5
MEANS = np.array([[4.0, 1.0], [-4.0, 0.0]])
SCALES = np.array([0.5, 1.0])
SHARES = np.array([1.0, 3.0])
WIDE = Normal(jnp.zeros(2), jnp.array(3.0))
UNEQUAL = gaussian_mixture(jnp.asarray(MEANS), jnp.asarray(SCALES), jnp.asarray(SHARES))


def unequal(x):
    return UNEQUAL.log_density(x) + LOG_Z


def slope(x):
    return jnp.sum(x)


def modes_of(points, scales, log_masses, counts, evaluations=0):
    matrices = np.asarray(scales)[:, None, None] * np.eye(len(points[0]))
    arrays = (jnp.asarray(leaf, float) for leaf in (points, matrices, log_masses))
    return Modes(*arrays, np.asarray(counts), evaluations)


def test_modes_of_an_unequal_mixture(precision):
    found = modes.search(jax.random.key(0), unequal, jax.tree.map(lambda x: x.astype(float), WIDE))
    assert found.points.dtype == found.scales.dtype == found.log_masses.dtype == precision
    # The heaviest first; sixteen standard deviations apart, each is a normal distribution by itself.
    np.testing.assert_allclose(found.points, MEANS[::-1], atol=1e-4)
    np.testing.assert_allclose(found.scales, SCALES[::-1, None, None] * np.eye(2), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.log_masses, np.log([0.75, 0.25]) + LOG_Z, atol=1e-3)
    assert found.counts.sum() <= 64
    assert found.unseen == 0
    # The 64 climbs at least evaluate the density and its gradient once.
    assert 128 <= found.evaluations < 64 * 2 * 200


@pytest.mark.parametrize("dim", [1, 4])
def test_the_mass_of_a_normal_target_is_exact(float64, dim):
    mean, covariance = normal_target(dim)
    log_density = shifted_normal_density(mean, covariance, LOG_Z)
    found = modes.search(jax.random.key(1), log_density, normal.standard(dim), starts=8)
    np.testing.assert_allclose(found.points, mean[None], rtol=1e-9)
    np.testing.assert_allclose(found.scales, np.linalg.cholesky(covariance)[None], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.log_masses, [LOG_Z], rtol=1e-9)
    assert found.counts.tolist() == [8]


@pytest.mark.slow
def test_climbs_arrive_from_far_out_in_heavy_tails():
    # There the density is not concave, and what a quasi-Newton step learns of the curvature has the wrong sign.
    means = np.random.default_rng(4).uniform(-10, 10, (3, 8))

    def heavy_tailed(x):
        return jax.nn.logsumexp(-5.5 * jnp.log1p(jnp.sum((x[None] - jnp.asarray(means, x.dtype)) ** 2, axis=1) / 3))

    start = Normal(jnp.zeros(8), jnp.array(6.0))
    found = modes.search(jax.random.key(0), heavy_tailed, start, starts=128)
    assert found.counts.sum() == 128
    nearest = np.linalg.norm(np.asarray(found.points)[:, None] - means, axis=2).min(axis=0)
    assert len(found.points) == 3
    assert nearest.max() < 0.5
    # Far away in other units the climbs are the same.
    far = modes.search(
        jax.random.key(0), lambda x: heavy_tailed(x / 512), start._replace(scale=jnp.array(6 * 512.0)), starts=128
    )
    np.testing.assert_allclose(far.points / 512, found.points, atol=1e-3)
    assert far.counts.tolist() == found.counts.tolist()


def test_climbs_that_do_not_arrive_are_not_modes():
    found = modes.search(jax.random.key(0), slope, normal.standard(2), starts=8, iterations=20)
    assert found.points.shape == (0, 2)
    assert found.scales.shape == (0, 2, 2)
    assert found.log_masses.shape == found.counts.shape == (0,)
    assert found.unseen == 0
    assert found.evaluations > 0


def test_neither_saddles_nor_densities_that_are_not_numbers_are_modes():
    saddle = modes.search_from(lambda x: x[0] ** 2 - x[1] ** 2 - x[0] ** 4, jnp.zeros((1, 2)))
    assert saddle.points.shape == (0, 2)
    broken = modes.search_from(lambda x: jnp.nan * jnp.sum(x), jnp.ones((2, 2)))
    assert broken.points.shape == (0, 2)


def test_the_first_climb_starts_at_the_mean():
    # The narrow mode is found by a climb from its midst, and by nothing else.
    start = Normal(jnp.asarray(MEANS[0], jnp.float32), jnp.array(1e-3))
    found = modes.search(jax.random.key(0), unequal, start, starts=1)
    np.testing.assert_allclose(found.points, MEANS[:1], atol=1e-4)
    assert found.counts.tolist() == [1]
    assert found.unseen == 1


def test_unseen_is_the_share_of_climbs_to_modes_found_once():
    four = modes_of(5.0 * np.arange(8).reshape(4, 2), np.ones(4), [3.0, 2.0, 1.0, 0.0], [1, 6, 1, 2])
    assert four.unseen == 0.2


def test_merge_keeps_each_mode_once_and_the_heaviest_first():
    one = modes_of([[0.0, 0.0], [9.0, 0.0]], [1.0, 0.1], [2.0, 0.0], [3, 1], 100)
    other = modes_of([[9.04, 0.0], [0.0, 7.0], [0.6, 0.0]], [0.1, 1.0, 1.0], [0.1, 1.0, 1.5], [2, 1, 4], 11)
    both = modes.merge(one, other)
    # 0.04 is less than half of a standard deviation of 0.1; 0.6 is more than half of one of 1.
    np.testing.assert_allclose(both.points, [[0.0, 0.0], [0.6, 0.0], [0.0, 7.0], [9.04, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(both.log_masses, [2.0, 1.5, 1.0, 0.1], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(both.scales)[:, 0, 0], [1.0, 1.0, 1.0, 0.1], rtol=1e-6)
    assert both.counts.tolist() == [3, 4, 1, 3]
    assert both.evaluations == 111
    again = modes.merge(both, both)
    np.testing.assert_array_equal(again.points, both.points)
    assert again.counts.tolist() == [6, 8, 2, 6]


def test_merge_with_none():
    none = modes.search(jax.random.key(0), slope, normal.standard(2), starts=8, iterations=20)
    one = modes_of([[1.0, 2.0]], [1.0], [0.0], [5], 7)
    for both in (modes.merge(none, one), modes.merge(one, none)):
        assert both.points.tolist() == [[1.0, 2.0]]
        assert both.counts.tolist() == [5]
        assert both.evaluations == none.evaluations + 7
    assert modes.merge(none, none).points.shape == (0, 2)


def test_factor_of_inverse_is_that_of_numpy(float64):
    for dim in (1, 2, 7):
        _, precision = normal_target(dim, dim)
        factor = np.asarray(modes.factor_of_inverse(precision))
        np.testing.assert_allclose(factor, np.linalg.cholesky(np.linalg.inv(precision)), rtol=1e-10, atol=1e-12)
    assert np.isnan(modes.factor_of_inverse(jnp.array([[1.0, 2.0], [2.0, 1.0]]))).any()


def test_ends_that_rounding_tells_apart_are_one():
    def curved(x):
        return -jnp.sum(jnp.linspace(1, 3, 100) * jnp.logaddexp(x - 1, 1 - x))

    found = modes.search(jax.random.key(0), curved, Normal(jnp.zeros(100), jnp.array(2.0)))
    assert found.counts.tolist() == [64]
    assert found.evaluations < 64 * 50  # a Hessian takes 100


def test_affordable_is_within_its_range():
    matrix = jnp.ones((1000, 200))
    # Value and gradient each multiply by the matrix once: 800,000 operations.
    assert modes.affordable(lambda x: -jnp.sum((matrix @ x) ** 2), normal.standard(200)) == 64
    assert modes.affordable(lambda x: -jnp.sum(x**2), normal.standard(1)) == 16384
    thin = jnp.ones((20, modes.DENSE))
    few = modes.affordable(lambda x: -jnp.sum((thin @ x) ** 2), normal.standard(modes.DENSE))
    many = modes.affordable(lambda x: -jnp.sum(x**2), normal.standard(modes.DENSE))
    assert 64 < few < many < 16384
    assert modes.affordable(lambda x: -jnp.sum(x**2), normal.standard(modes.DENSE + 1)) == 64
    assert few % 64 == many % 64 == 0
    # Each coordinate costs 20 operations, besides those of the density.
    assert many <= 1e7 / (20 * modes.DENSE)


def test_mixture_is_in_proportion_to_the_masses():
    found = modes_of([[0.0, 0.0], [9.0, 0.0], [0.0, 7.0]], [1.0, 0.1, 2.0], np.log([6.0, 3.0, 1.0]), [1, 1, 1])
    mixture = modes.mixture(found)
    np.testing.assert_allclose(np.exp(mixture.log_shares), [0.6, 0.3, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(mixture.means, found.points)
    np.testing.assert_array_equal(mixture.scales, found.scales)
    assert mixture.freedom == jnp.inf


def test_errors():
    for number in ("starts", "iterations"):
        with pytest.raises(ValueError, match=f"{number} must be at least 1, got 0"):
            modes.search(jax.random.key(0), unequal, WIDE, **{number: 0})
    none = modes.search(jax.random.key(0), slope, normal.standard(2), starts=8, iterations=20)
    with pytest.raises(ValueError, match="modes must be at least one, got none"):
        modes.mixture(none)


def test_kinks_are_modes_where_they_are_asked_for():
    """Two products of Laplace distributions, of which no end of a climb has a curvature."""
    apart = jnp.full(10, 4.4)

    def log_density(x):
        one = jnp.log(0.7) - jnp.sum(jnp.abs(x)) - 10 * jnp.log(2)
        other = jnp.log(0.3) - jnp.sum(jnp.abs(x - apart)) / 0.4 - 10 * jnp.log(0.8)
        return jnp.logaddexp(one, other)

    starts = 5 * jax.random.normal(jax.random.key(0), (512, 10))
    starts = starts.at[:8].set(apart[None] + jax.random.normal(jax.random.key(1), (8, 10)))
    assert len(modes.search_from(log_density, starts).points) == 0
    found = modes.search_from(log_density, starts, kinks=True)
    for place, share in ((0.0, 0.7), (4.4, 0.3)):
        nearest = int(np.argmin(np.linalg.norm(found.points - place, axis=1)))
        assert np.abs(found.points[nearest] - place).max() < 0.5
        assert float(found.log_masses[nearest]) == pytest.approx(np.log(share), abs=1.5)
    assert found.counts.sum() > 500


def test_where_the_density_overflows_there_is_no_mass():
    def log_density(x):
        return jnp.where(jnp.abs(x[0] - 0.5) < 0.2, jnp.inf, -jnp.sum(jnp.abs(x)))

    found = modes.search_from(log_density, jnp.array([[0.0, 0.1], [-0.5, 0.2]]), kinks=True)
    assert len(found.points) > 0
    assert np.isfinite(found.log_masses).all()
