from itertools import pairwise

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from dds.targets import double_wells, forty_modes, many_well

FORTY_SCALE = np.log1p(np.exp(1.0))


def well(x):
    return np.exp(-(x**4) + 6 * x**2 + 0.5 * x)


def well_integral(lower, upper):
    return scipy.integrate.quad(well, lower, upper, epsabs=0, epsrel=1e-12)[0]


def draws(target, count):
    return np.asarray(jax.jit(jax.vmap(target.sample))(jax.random.split(jax.random.key(0), count)), dtype=np.float64)


@pytest.mark.parametrize("dim", [2, 6])
def test_many_well_density_is_its_formula(precision, dim):
    x = np.random.default_rng(0).normal(size=(20, dim)) * 2
    ours = jax.jit(jax.vmap(many_well(dim).log_density))(x.astype(precision))
    exact = [sum(-(a**4) + 6 * a**2 + a / 2 - b**2 / 2 for a, b in point.reshape(-1, 2)) for point in x]
    tolerance = {"float32": 1e-5, "float64": 1e-12}[precision]
    assert ours.dtype == precision
    np.testing.assert_allclose(ours, exact, rtol=tolerance, atol=100 * tolerance)


@pytest.mark.parametrize("dim", [2, 6, 32])
def test_many_well_log_z_is_that_of_adaptive_quadrature(dim):
    total = well_integral(-np.inf, np.inf) * np.sqrt(2 * np.pi)
    assert many_well(dim).log_z == pytest.approx(dim / 2 * np.log(total), rel=1e-12)
    assert many_well(32).log_z == pytest.approx(164.6957, abs=5e-5)


def test_many_well_sampler_follows_the_density():
    x = draws(many_well(6), 40_000)
    assert x.shape == (40_000, 6)
    wells, normals = x[:, ::2], x[:, 1::2]
    grid = np.linspace(-3.5, 3.5, 401)
    pieces = [well_integral(-6, grid[0]), *(well_integral(*ends) for ends in pairwise(grid))]
    total = well_integral(-6, 6)
    for column in wells.T:
        assert scipy.stats.kstest(column, lambda x: np.interp(x, grid, np.cumsum(pieces) / total)).pvalue > 1e-6
    for column in normals.T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-6
    assert np.abs(np.corrcoef(x.T) - np.eye(6)).max() < 6 / np.sqrt(len(x))
    # The wells that the copies are in: 2^3 modes, independent, with the weights of the quadrature.
    left = well_integral(-6, 0) / total
    chosen = np.bincount((wells < 0) @ [1, 2, 4], minlength=8)
    each = np.array([left ** mode.bit_count() * (1 - left) ** (3 - mode.bit_count()) for mode in range(8)])
    assert scipy.stats.chisquare(chosen, len(x) * each).pvalue > 1e-6
    # Far out, where a table of the distribution function is coarse.
    for low, high in [(-6, -2.3), (2.4, 6)]:
        tail = well_integral(low, high) / total
        beyond = np.mean((low < wells) & (wells < high))
        assert abs(beyond - tail) < 6 * np.sqrt(tail / wells.size)


@pytest.mark.parametrize("dim", [-2, 0, 1, 3, 33])
def test_many_well_needs_pairs(dim):
    with pytest.raises(ValueError, match=f"dim must be even and at least 2, got {dim}"):
        many_well(dim)


@pytest.mark.parametrize(
    ("dim", "wells", "separation"), [(5, 5, 4.0), (7, 3, 2.0), (2, 0, 1.0), (3, 2, 0.0), (1, 1, 100.0)]
)
def test_double_wells_are_their_formula(precision, dim, wells, separation):
    def well(x):
        return np.exp(-((x**2 - separation) ** 2))

    target = double_wells(dim, wells, separation=separation)
    x = np.random.default_rng(0).normal(size=(20, dim)) + np.sqrt(separation)
    ours = jax.jit(jax.vmap(target.log_density))(x.astype(precision))
    exact = [sum(-((a**2 - separation) ** 2) for a in p[:wells]) - 0.5 * p[wells:] @ p[wells:] for p in x]
    tolerance = {"float32": 2e-5, "float64": 1e-12}[precision]
    assert ours.dtype == precision
    np.testing.assert_allclose(ours, exact, rtol=tolerance, atol=100 * tolerance)
    root = np.sqrt(separation)
    pieces = [root + shift for shift in (-1.0, -0.3, 0.0, 0.3, 1.0) if root + shift > 0]
    half = sum(scipy.integrate.quad(well, *ends, epsabs=0)[0] for ends in pairwise([0.0, *pieces, root + 4]))
    total = wells * np.log(2 * half) + 0.5 * (dim - wells) * np.log(2 * np.pi)
    assert target.log_z == pytest.approx(total, abs=1e-9)


def test_double_wells_sampler_follows_the_density():
    x = draws(double_wells(4, 3), 40_000)
    grid = np.linspace(-3, 3, 301)

    def well(x):
        return np.exp(-((x**2 - 2) ** 2))

    pieces = np.cumsum([scipy.integrate.quad(well, *ends)[0] for ends in pairwise([-6, *grid])])
    for column in x[:, :3].T:
        assert scipy.stats.kstest(column, lambda x: np.interp(x, grid, pieces / pieces[-1])).pvalue > 1e-6
    assert scipy.stats.kstest(x[:, 3], "norm").pvalue > 1e-6
    assert np.abs(np.corrcoef(x.T) - np.eye(4)).max() < 6 / np.sqrt(len(x))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"wells": 6}, "wells must be from 0 to 5, got 6"),
        ({"separation": -1.0}, "separation must be from 0 to 100, got -1"),
    ],
)
def test_double_wells_say_what_is_wrong(argument, message):
    with pytest.raises(ValueError, match=message):
        double_wells(**({"dim": 5} | argument))


def forty_means(dim):
    # As PyTorch turns the words of its generator into single-precision numbers.
    generator = np.random.MT19937()
    generator._legacy_seeding(0)
    words = generator.random_raw(40 * dim).astype(np.uint32)
    uniform = np.array([float(word & (2**24 - 1)) / 2**24 for word in words])
    return ((uniform - 0.5) * 2 * 40).reshape(40, dim)


@pytest.mark.parametrize("dim", [2, 50])
def test_forty_modes_density_is_that_of_scipy(precision, dim):
    means = forty_means(dim)
    x = means[::4] + np.random.default_rng(0).normal(size=(10, dim)) * 3
    ours = jax.jit(jax.vmap(forty_modes(dim).log_density))(x.astype(precision))
    components = scipy.stats.norm.logpdf(x[:, None], means, FORTY_SCALE).sum(axis=2)
    exact = scipy.special.logsumexp(components, axis=1) - np.log(40)
    tolerance = {"float32": 2e-5, "float64": 1e-10}[precision]
    assert ours.dtype == precision
    np.testing.assert_allclose(ours, exact, rtol=tolerance)


def test_forty_modes_has_the_published_means():
    # The first three, as other codes print them.
    published = [[-0.2995, 21.4577], [-32.9218, -29.4376], [-15.4062, 10.7263]]
    np.testing.assert_allclose(forty_means(2)[:3], published, atol=5e-5)


def mixture_cdf(t, means):
    return scipy.stats.norm.cdf(np.expand_dims(t, -1), means, FORTY_SCALE).mean(axis=-1)


def test_forty_modes_sampler_visits_every_mode():
    target = forty_modes()
    assert target.log_z == 0
    x = draws(target, 20_000)
    means = forty_means(2)
    for column, centres in zip(x.T, means.T, strict=True):
        assert scipy.stats.kstest(column, lambda t, m=centres: mixture_cdf(t, m)).pvalue > 1e-6
    nearest = np.argmin(np.linalg.norm(x[:, None] - means, axis=2), axis=1)
    assert np.all(np.bincount(nearest, minlength=40) > 0)


def test_forty_modes_needs_a_dimension():
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        forty_modes(0)
