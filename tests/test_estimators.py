import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from arviz_stats.base.array import array_stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dds import estimators

# Normal log weights with mean -s^2 / 2: w has mean 1, log w has mean -s^2 / 2 under the sampler and s^2 / 2 under the
# target, and the ESS is exp(-s^2) from either side.
SPREAD = 0.6


def lognormal(key, count=200_000, sign=-1):
    return sign * SPREAD**2 / 2 + SPREAD * jax.random.normal(key, (count,))


def test_lognormal_weights_from_both_sides():
    reverse, forward = lognormal(jax.random.key(0)), lognormal(jax.random.key(1), sign=1)
    for estimate, truth in (
        (estimators.log_z(reverse), 0.0),
        (estimators.elbo(reverse), -(SPREAD**2) / 2),
        (estimators.eubo(forward), SPREAD**2 / 2),
    ):
        assert abs(estimate.value - truth) < 6 * estimate.standard_error
    for fraction in (
        estimators.effective_sample_size(reverse),
        estimators.forward_effective_sample_size(forward),
    ):
        assert fraction == pytest.approx(np.exp(-(SPREAD**2)), rel=0.02)


def test_standard_error_is_the_spread_of_repeats():
    repeats = jax.vmap(lambda key: estimators.log_z(lognormal(key, 500)))(jax.random.split(jax.random.key(0), 2000))
    assert np.std(repeats.value) == pytest.approx(float(np.mean(repeats.standard_error)), rel=0.1)


@settings(deadline=None, max_examples=30)
@given(values=st.lists(st.floats(-5, 5), min_size=3, max_size=3), shift=st.sampled_from([-1e4, -50.0, 50.0, 1e4]))
def test_a_factor_of_the_density_shifts_log_z_and_nothing_else(values, shift):
    with jax.enable_x64(True):
        log_w = jnp.asarray(values)
        for estimate in (estimators.log_z, estimators.elbo):
            one, other = estimate(log_w), estimate(log_w + shift)
            assert other.value == pytest.approx(float(one.value) + shift, abs=1e-8)
            assert other.standard_error == pytest.approx(float(one.standard_error), abs=1e-8)
        for fraction in (estimators.effective_sample_size, estimators.forward_effective_sample_size):
            assert fraction(log_w + shift) == pytest.approx(float(fraction(log_w)), rel=1e-6)


def test_weights_of_zero_count_as_samples():
    log_w = jnp.array([0.0, 0.0, -jnp.inf, -jnp.inf])
    assert estimators.log_z(log_w).value == pytest.approx(np.log(0.5))
    assert estimators.effective_sample_size(log_w) == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [0.3, 0.6, 0.9])
def test_pareto_k_finds_the_shape_of_the_tail(shape):
    weights = scipy.stats.genpareto.rvs(shape, size=100_000, random_state=1)
    assert estimators.pareto_k(np.log(weights)) == pytest.approx(shape, abs=0.1)


NORMALS = np.random.default_rng(0).normal(size=1000)


@pytest.mark.parametrize("shift", [0.0, 1e5])
@pytest.mark.parametrize(
    ("log_w", "k"),
    [
        (np.zeros(100), -np.inf),
        (np.append(np.zeros(100), np.nan), np.inf),
        (np.append(np.zeros(100), np.inf), np.inf),
        (np.full(100, -np.inf), np.inf),
        # One weight carries everything, or so few that there is no tail to fit.
        (np.append(0.0, np.full(999, -1000.0)), np.inf),
        (np.append(20.0, np.zeros(999)), np.inf),
        (np.append(-0.1 * np.arange(24), np.full(976, -1000.0)), np.inf),
        (np.append(-0.1 * np.arange(24), np.full(976, -np.inf)), np.inf),
        *((spread * NORMALS[:count], np.inf) for spread in (1e3, 1e4, 1e6) for count in (25, 100, 1000)),
        # All of the tail is the same; one of it is not the largest.
        (np.append(np.zeros(500), np.full(500, -np.inf)), -np.inf),
        (np.append(np.zeros(94), np.full(906, -1.0)), -np.inf),
        (np.append(np.zeros(25), np.full(975, -np.inf)), -np.inf),
    ],
)
def test_pareto_k_of_degenerate_weights(log_w, k, shift):
    assert estimators.pareto_k(np.random.default_rng(1).permutation(log_w) + shift) == k


@pytest.mark.parametrize("size", [30, 225, 226, 10_000])
def test_pareto_k_is_that_of_another_library(size):
    for seed in range(10):
        log_w = np.random.default_rng(seed).normal(size=size)
        others = array_stats.psislw(-log_w)[1]  # it takes log likelihoods, which are minus log weights
        assert estimators.pareto_k(log_w) == pytest.approx(float(others), abs=1e-9)


def test_pareto_k_of_bounded_weights_is_light():
    for log_w in (np.append(np.zeros(93), np.full(907, -1.0)), np.append(np.ones(5), np.zeros(995))):
        assert estimators.pareto_k(log_w) < 0.1


def test_weights_of_zero_have_no_part_in_the_tail():
    log_w = np.log(scipy.stats.genpareto.rvs(0.6, size=20_000, random_state=1))
    with_zeros = np.append(log_w, np.full(500_000, -np.inf))
    assert estimators.pareto_k(with_zeros) == estimators.pareto_k(log_w) == pytest.approx(0.6, abs=0.1)


def test_weights_that_differ_by_rounding_have_no_tail():
    # As of a sampler that is the target: the largest of what rounding leaves can look like a heavy tail.
    noise = np.random.default_rng(0).standard_t(1.0, 10_000)
    assert estimators.pareto_k(1e-9 * noise) == -np.inf
    assert estimators.pareto_k(0.1 * np.random.default_rng(1).normal(size=10_000)) > -np.inf


def test_pareto_k_needs_a_tail():
    with pytest.raises(ValueError, match="log_weights must be 25 or more, got 24 of them"):
        estimators.pareto_k(np.zeros(24))


def test_pareto_k_of_all_numbers():
    for size in (1.0, 1e308):
        assert estimators.pareto_k(np.append(-size * np.ones(50), size * np.ones(50))) == -np.inf


def test_a_large_constant_costs_the_effective_sample_sizes_no_digits():
    log_w = np.array([0, 1, 2, 3], np.float32)
    for fraction in (estimators.effective_sample_size, estimators.forward_effective_sample_size):
        assert fraction(log_w + np.float32(2e6)) == pytest.approx(float(fraction(log_w)), rel=1e-6)


@pytest.mark.parametrize("bad", [[0.0, np.nan], [0.0, np.inf], [-np.inf, -np.inf], [np.nan, np.nan]])
def test_resampling_refuses_weights_that_are_none(bad):
    with pytest.raises(ValueError, match=r"log_weights must be (numbers below infinity|somewhere finite), got"):
        estimators.resample(jax.random.key(0), jnp.array(bad), 3)
    traced = jax.jit(estimators.resample, static_argnums=2)(jax.random.key(0), jnp.array(bad), 3)
    assert traced.shape == (3,)  # compiled code cannot refuse


def test_resampling_draws_one_or_more():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        estimators.resample(jax.random.key(0), jnp.zeros(2), 0)
    assert estimators.resample(jax.random.key(0), np.zeros(2, np.float32), 1).shape == (1,)


def test_resampling_follows_the_weights_within_one_copy():
    log_w = jax.random.normal(jax.random.key(0), (50,))
    expected = 1000 * np.asarray(jax.nn.softmax(log_w))
    counts = np.bincount(estimators.resample(jax.random.key(1), log_w, 1000), minlength=50)
    assert np.abs(counts - expected).max() < 1.01
    draws = jax.vmap(lambda key: estimators.resample(key, log_w, 3))(jax.random.split(jax.random.key(2), 20_000))
    rates = np.bincount(np.asarray(draws).ravel(), minlength=50) / 20_000
    assert np.all(np.abs(rates - expected * 3 / 1000) < 6 * np.sqrt(expected * 3 / 1000 / 20_000) + 1e-4)


def test_resampling_never_picks_a_zero_weight():
    log_w = jnp.array([-jnp.inf, 0.0, -jnp.inf, 0.0, -jnp.inf])
    assert set(np.asarray(estimators.resample(jax.random.key(0), log_w, 100)).tolist()) == {1, 3}
