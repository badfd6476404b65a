import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dds import distances
from dds.targets import gaussian_mixture

MEANS = jnp.array([[-4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


def test_squared_mmd_is_its_double_sums(float64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) * 2
    pairs = np.array([np.sum((a - b) ** 2) for i, a in enumerate(y) for b in y[i + 1 :]])

    def k(a, b):
        return np.mean([np.exp(-np.sum((a - b) ** 2) / (2 * s**2 * np.median(pairs))) for s in (0.5, 2.0)])

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    between = np.mean([k(a, b) for a in x for b in y])
    ours = distances.squared_mmd(x, y, bandwidths=(0.5, 2.0))
    assert ours == pytest.approx(float(sum(within) - 2 * between), rel=1e-10)


def test_squared_mmd_of_one_distribution_is_zero_in_the_mean():
    x, y = jax.random.normal(jax.random.key(0), (2, 200, 100, 2))
    values = np.asarray(jax.jit(jax.vmap(distances.squared_mmd))(x, y))
    assert abs(values.mean()) < 5 * values.std() / np.sqrt(200)


@pytest.mark.parametrize(("count", "other"), [(5, 5), (4, 6), (7, 3), (1, 9)])
def test_wasserstein_is_that_of_sorted_copies(float64, count, other):
    # As many copies of each number as make both sets equally large: then the sorted ones belong together.
    rng = np.random.default_rng(count)
    x, y = rng.normal(size=count), 2 + 3 * rng.normal(size=other)
    copies = np.sort(np.repeat(x, other)) - np.sort(np.repeat(y, count))
    exact = np.sqrt(np.mean(copies**2))
    assert distances.wasserstein(x, y) == pytest.approx(float(exact), rel=1e-12)
    assert distances.wasserstein(y, x) == pytest.approx(float(exact), rel=1e-12)


def test_wasserstein_of_normal_distributions():
    # Of N(a, s^2) and N(b, t^2) it is the root of (a - b)^2 + (s - t)^2.
    x, y = jax.random.normal(jax.random.key(0), (2, 100_000))
    assert distances.wasserstein(1 + 2 * x, y[:60_000]) == pytest.approx(2**0.5, rel=0.02)
    assert distances.wasserstein(x, y) < 0.03


def test_shares_of_modes_are_those_of_the_mixture():
    weights = jnp.array([1.0, 2.0, 5.0])
    target = gaussian_mixture(MEANS, jnp.ones(3), weights)
    x = jax.jit(jax.vmap(target.sample))(jax.random.split(jax.random.key(0), 20_000))
    shares = distances.mode_shares(x, MEANS)
    exact = weights / 8
    # At four standard deviations between any two modes next to nothing is nearer to another one.
    np.testing.assert_allclose(shares, exact, atol=5 * np.sqrt(0.25 / 20_000) + 3e-3)
    assert distances.total_variation(shares, exact) < 0.01
    # Weighted by the ratio of two mixtures they are those of the other.
    equal = gaussian_mixture(MEANS, jnp.ones(3))
    log_w = jax.vmap(lambda x: equal.log_density(x) - target.log_density(x))(x)
    np.testing.assert_allclose(distances.mode_shares(x, MEANS, log_w), 1 / 3, atol=0.02)


def test_coverage_and_variation_of_known_shares():
    shares = jnp.array([0.5, 0.25, 0.25, 0.0])
    assert distances.entropic_coverage(shares) == pytest.approx(0.75)
    assert distances.total_variation(shares, jnp.full(4, 0.25)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distances.squared_mmd(jnp.zeros((1, 2)), jnp.zeros((3, 2))), "samples must be two or more"),
        (lambda: distances.squared_mmd(jnp.zeros((3, 2)), jnp.zeros((3, 2)), bandwidths=(0.0,)), "bandwidths must be"),
        (lambda: distances.wasserstein(jnp.ones(2), jnp.zeros(0)), "exact must be one or more, got none"),
        (lambda: distances.entropic_coverage(jnp.ones(1)), "shares must be two or more"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
