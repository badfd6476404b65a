"""Student-t mixtures: their density against SciPy's, their draws, their fit, and importance sampling with them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats

from dds import families, losses, mixtures, normal, paths
from dds.types import Mixture, Normal

FREEDOMS = [1, 2, 3, 8, 32, np.inf]
SHARES = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[-2.0, 0.5], [0.3, 1.0], [4.0, -1.0]])
FACTORS = np.array([[[0.7, 0.0], [0.2, 0.4]], [[1.5, 0.0], [-0.8, 0.6]], [[1.0, 0.0], [0.0, 2.0]]])
LOG_Z = 5.5

draws = jax.jit(lambda mixture, noise: jax.vmap(partial(mixtures.draw, mixture))(noise))
densities = jax.jit(lambda mixture, points: jax.vmap(partial(mixtures.log_density, mixture))(points))
fit = partial(mixtures.fit, iterations=15, shrinkage=0.0)


def mixture_of(freedom, shares=SHARES, means=MEANS, factors=FACTORS):
    leaves = (np.log(shares), means, factors, freedom)
    return Mixture(*(jnp.asarray(leaf, float) for leaf in leaves))


def of_scipy(freedom, points, shares=SHARES, means=MEANS, factors=FACTORS):
    parts = [
        scipy.stats.multivariate_normal(mean, factor @ factor.T).logpdf(points).reshape(-1)
        if np.isinf(freedom)
        else scipy.stats.multivariate_t(mean, factor @ factor.T, df=freedom).logpdf(points).reshape(-1)
        for mean, factor in zip(means, factors, strict=True)
    ]
    return scipy.special.logsumexp(np.stack(parts) + np.log(shares)[:, None], axis=0)


def noise_of(mixture, count, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, mixtures.noise_size(mixture)))


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_log_density_is_that_of_scipy(float64, freedom):
    points = np.random.default_rng(0).normal(size=(50, 2)) * np.logspace(-1, 3, 50)[:, None]
    exact = of_scipy(freedom, points)
    np.testing.assert_allclose(densities(mixture_of(freedom), jnp.asarray(points)), exact, rtol=1e-11)


def test_one_component_without_tails_is_the_normal_distribution(precision):
    x = jnp.array([0.3, -2.0])
    for scale in (jnp.array(0.7), jnp.array([0.3, 1.2]), jnp.array([[0.5, 0.0], [0.9, 1.1]])):
        distribution = Normal(jnp.array([0.2, -0.4]), scale)
        one = mixtures.of_normal(distribution)
        assert one.freedom == jnp.inf
        exact = float(normal.log_density(distribution, x))
        assert densities(one, x[None])[0] == pytest.approx(exact, rel=1e-5)
        assert mixtures.log_density(distribution, x) == exact
        e = jnp.arange(35.0) / 10
        np.testing.assert_allclose(draws(one, e[None])[0], normal.reparameterise(distribution, e[:2]), rtol=1e-6)
        np.testing.assert_array_equal(mixtures.draw(distribution, e[:2]), normal.reparameterise(distribution, e[:2]))
    assert (mixtures.noise_size(distribution), mixtures.noise_size(one)) == (2, 35)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_draws_of_one_coordinate_are_those_of_scipy(freedom):
    one = mixture_of(freedom, [1.0], [[0.5]], [[[2.0]]])
    x = np.asarray(draws(one, noise_of(one, 20_000)), np.float64)[:, 0]
    # The probability of five standard errors.
    assert scipy.stats.kstest(x, scipy.stats.t(freedom, 0.5, 2.0).cdf).pvalue > 6e-7


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_all_coordinates_of_a_draw_are_stretched_as_one(freedom):
    one = mixture_of(freedom, [1.0], MEANS[1:2], FACTORS[1:2])
    x = np.asarray(draws(one, noise_of(one, 20_000)), np.float64)
    e = np.linalg.solve(FACTORS[1], (x - MEANS[1]).T)
    distances = np.sum(e**2, axis=0) / 2
    law = scipy.stats.chi2(2, scale=0.5) if np.isinf(freedom) else scipy.stats.f(2, freedom)
    assert scipy.stats.kstest(distances, law.cdf).pvalue > 6e-7
    angles = np.arctan2(*e) / (2 * np.pi) + 0.5
    assert scipy.stats.kstest(angles, scipy.stats.uniform.cdf).pvalue > 6e-7


def test_shares_and_moments_of_draws():
    apart = mixture_of(8, means=20 * MEANS)
    x = np.asarray(draws(apart, noise_of(apart, 20_000, 1)), np.float64)
    nearest = np.argmin(np.linalg.norm(x[:, None] - 20 * MEANS, axis=-1), axis=1)
    for i in range(3):
        assert abs(np.mean(nearest == i) - SHARES[i]) < 5 * np.sqrt(SHARES[i] * (1 - SHARES[i]) / len(x))
        own = x[nearest == i] - 20 * MEANS[i]
        assert np.all(np.abs(own.mean(axis=0)) < 5 * own.std(axis=0) / np.sqrt(len(own)))
        products = own[:, :, None] * own[:, None]
        error = products.std(axis=0) / np.sqrt(len(own))
        assert np.all(np.abs(products.mean(axis=0) - 8 / 6 * FACTORS[i] @ FACTORS[i].T) < 6 * error)


def test_the_outermost_numbers_choose_the_outermost_components():
    level = jnp.zeros((2, 35)).at[:, 2].set(jnp.array([-40.0, 40.0]))
    np.testing.assert_allclose(draws(mixture_of(np.inf), level), MEANS[[0, -1]], rtol=1e-6)
    # A share of zero is never drawn.
    x = draws(mixture_of(np.inf, shares=[1e-45, 0.5, 0.5]), level.at[1, 2].set(-0.1))
    np.testing.assert_allclose(x, MEANS[[1, 1]], rtol=1e-6)


@pytest.mark.parametrize("freedom", [1, 5, np.inf])
def test_extend_adds_standard_coordinates(float64, freedom):
    mixture = mixture_of(freedom)
    more = mixtures.extend(mixture, 4)
    means = np.pad(MEANS, ((0, 0), (0, 2)))
    factors = np.stack([scipy.linalg.block_diag(factor, np.eye(2)) for factor in FACTORS])
    points = np.random.default_rng(1).normal(size=(20, 4)) * 3
    exact = of_scipy(freedom, points, SHARES, means, factors)
    np.testing.assert_allclose(densities(more, jnp.asarray(points)), exact, rtol=1e-11)
    # The first coordinates of its draws are draws of the mixture.
    noise = noise_of(more, 100)
    x = draws(more, noise)
    np.testing.assert_allclose(x[:, :2], draws(mixture, jnp.delete(noise, jnp.array([2, 3]), axis=1)), rtol=1e-12)
    assert mixtures.extend(mixture, 2).scales.shape == mixture.scales.shape


def own_tails(freedom, shares=SHARES, means=MEANS, factors=FACTORS):
    """Components with independent tails along their axes."""
    return mixture_of(freedom, shares, means, factors)


@pytest.mark.parametrize("freedom", [(1, 8), (2, np.inf)])
def test_independent_tails_are_those_of_scipy(float64, freedom):
    mixture = own_tails(freedom)
    points = np.random.default_rng(0).normal(size=(50, 2)) * np.logspace(-1, 3, 50)[:, None]
    parts = []
    for share, mean, factor in zip(SHARES, MEANS, FACTORS, strict=True):
        e = np.linalg.solve(factor, (points - mean).T)
        each = [
            scipy.stats.norm.logpdf(z) if np.isinf(nu) else scipy.stats.t(nu).logpdf(z)
            for nu, z in zip(freedom, e, strict=True)
        ]
        parts.append(np.log(share) + np.sum(each, axis=0) - np.linalg.slogdet(factor)[1])
    exact = scipy.special.logsumexp(parts, axis=0)
    np.testing.assert_allclose(densities(mixture, jnp.asarray(points)), exact, rtol=1e-11)
    more = mixtures.extend(mixture, 3)
    beside = np.column_stack([points, points[:, 0]])
    further = exact + scipy.stats.norm.logpdf(points[:, 0])
    np.testing.assert_allclose(densities(more, jnp.asarray(beside)), further, rtol=1e-11)


@pytest.mark.parametrize("freedom", [(1, 8), (2, np.inf)])
def test_draws_with_independent_tails_are_those_of_scipy(freedom):
    one = own_tails(freedom, [1.0], MEANS[1:2], FACTORS[1:2])
    x = np.asarray(draws(one, noise_of(one, 20_000)), np.float64)
    e = np.linalg.solve(FACTORS[1], (x - MEANS[1]).T)
    ranks = []
    for nu, z in zip(freedom, e, strict=True):
        law = scipy.stats.norm() if np.isinf(nu) else scipy.stats.t(nu)
        assert scipy.stats.kstest(z, law.cdf).pvalue > 6e-7
        ranks.append(np.abs(law.cdf(z) - 0.5))
    # Lengths that are stretched as one would be correlated.
    assert abs(np.corrcoef(ranks)[0, 1]) < 5 / np.sqrt(len(x))


@pytest.mark.parametrize("weighted", [False, True])
def test_fit_recovers_the_tails_of_each_axis(float64, weighted):
    truth = own_tails((2, np.inf), [0.4, 0.6], [[-6.0, 1.0], [5.0, 0.0]], FACTORS[:2])
    points = draws(truth, noise_of(truth, 4000, 7))
    start = [[-4.0, 0.0], [4.0, 0.0]], [2 * FACTORS[0], 0.5 * FACTORS[1]]
    weights = jnp.full(4000, 1 / 4000)
    if weighted:  # every other point counts twice, where there is one component
        weights = jax.nn.softmax(jnp.where(points[:, 0] > 0, jnp.log(2.0), 0.0))
    fitted = mixtures.fit(own_tails((4, 4), [0.5, 0.5], *start), points, weights, iterations=40, shrinkage=0.0)
    assert fitted.freedom.tolist() == [2, np.inf]
    share = 1.2 / 1.6 if weighted else 0.6
    assert float(jnp.exp(fitted.log_shares[1])) == pytest.approx(share, abs=0.04)
    for i in range(2):
        ratio = np.linalg.solve(FACTORS[i], np.asarray(fitted.scales[i]))
        np.testing.assert_allclose(ratio, np.eye(2), atol=0.15)
        np.testing.assert_allclose(fitted.means[i], truth.means[i], atol=0.25)


def test_the_fit_of_independent_tails_gains_with_every_iteration(float64):
    truth = own_tails((2, 8), [0.4, 0.6], [[-2.0, 1.0], [2.0, 0.0]], FACTORS[:2])
    points = draws(truth, noise_of(truth, 1000, 8))
    mixture, weights = own_tails((4, 4), [0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], FACTORS[1:]), jnp.full(1000, 1e-3)
    values = [float(jnp.mean(densities(mixture, points)))]
    for _ in range(8):
        mixture = mixtures.fit(mixture, points, weights, iterations=1, shrinkage=0.0)
        values.append(float(jnp.mean(densities(mixture, points))))
    assert (np.diff(values) > -1e-12).all()
    assert values[-1] > values[0] + 0.1


def test_own_tails_keep_the_curvature_in_the_middle(float64):
    plain = mixtures.of_normal(Normal(jnp.array([0.3, -1.0]), jnp.asarray(FACTORS[1])))
    own = mixtures.with_own_tails(plain, 4)
    curvatures = [jax.hessian(partial(mixtures.log_density, each))(plain.means[0]) for each in (plain, own)]
    np.testing.assert_allclose(*curvatures, rtol=1e-9)


# All fits are of 1000 points by two components in two dimensions: it is compiled once.
START = {"shares": [0.5, 0.5], "means": [[-1.0, 0.0], [1.0, 0.0]], "factors": [np.eye(2), np.eye(2)]}


def two_clusters(freedom, count=1000, seed=3):
    truth = mixture_of(freedom, [0.3, 0.7], [[-4.0, 1.0], [3.0, 0.0]], FACTORS[:2])
    return truth, draws(truth, noise_of(truth, count, seed))


@pytest.mark.parametrize("freedom", [1, 2, 4])
def test_fit_recovers_a_mixture_and_its_tails(float64, freedom):
    truth, points = two_clusters(freedom)
    fitted = fit(mixture_of(np.inf, **START), points, jnp.full(1000, 1 / 1000))
    assert float(fitted.freedom) == freedom
    sizes = 1000 * np.exp(truth.log_shares)
    shares = np.exp(fitted.log_shares)
    assert np.sum(shares) == pytest.approx(1, rel=1e-12)
    # Cramer and Rao's bound for a centre of a t distribution is (nu + d + 2) / (nu + d) times the scale; the clusters
    # overlap in their tails, which costs a little more.
    widen = 1.5 * np.sqrt((freedom + 4) / (freedom + 2))
    assert np.all(np.abs(shares - [0.3, 0.7]) < 5 * 1.5 * np.sqrt(0.21 / 1000))
    for i in range(2):
        deviations = np.sqrt(np.diagonal(FACTORS[i] @ FACTORS[i].T))
        assert np.all(np.abs(fitted.means[i] - truth.means[i]) < 5 * widen * deviations / np.sqrt(sizes[i]))
        ratio = np.linalg.solve(FACTORS[i], np.asarray(fitted.scales[i]))
        np.testing.assert_allclose(ratio @ ratio.T, np.eye(2), atol=5 * widen * np.sqrt(2 / sizes[i]) + 0.02)


def test_tails_are_the_heaviest_that_cost_hardly_anything(float64):
    truth, points = two_clusters(np.inf)
    weights = jnp.full(1000, 1 / 1000)
    fitted = fit(mixture_of(np.inf, **START), points, weights, heavier=0.02)
    lost = np.mean(np.asarray(densities(truth, points)) - np.asarray(densities(fitted, points)))
    assert fitted.freedom == 8
    assert lost <= 0.02
    assert fit(mixture_of(np.inf, **START), points, weights).freedom == 32


def test_a_product_is_its_factors(float64):
    points = jax.random.normal(jax.random.key(0), (500, 3)) * jnp.array([[1.0, 2.0, 3.0]])
    bimodal = points.at[:, 0].add(4 * jnp.sign(points[:, 0]))
    start = mixtures.product(bimodal, 4)
    fitted = fit(start, bimodal, jnp.full(500, 1 / 500), iterations=20, shrinkage=1e-3)
    factors = [jax.tree.map(lambda leaf, i=i: leaf[i], fitted.factors) for i in range(3)]
    x = bimodal[0]
    parts = [float(mixtures.log_density(factor, x[i : i + 1])) for i, factor in enumerate(factors)]
    assert float(mixtures.log_density(fitted, x)) == pytest.approx(sum(parts), rel=1e-12)
    alone = fit(
        jax.tree.map(lambda leaf: leaf[0], start.factors),
        bimodal[:, :1],
        jnp.full(500, 1 / 500),
        iterations=20,
        shrinkage=1e-3,
    )
    np.testing.assert_allclose(alone.means, factors[0].means, rtol=1e-6)
    size = mixtures.noise_size(fitted)
    drawn = jax.vmap(lambda e: mixtures.draw(fitted, e))(jax.random.normal(jax.random.key(1), (4000, size)))
    # Kolmogorov and Smirnov's distance between draws and points, at the level of one in a million.
    for i in range(3):
        assert scipy.stats.ks_2samp(np.asarray(drawn[:, i]), np.asarray(bimodal[:, i])).pvalue > 1e-6
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 6 / np.sqrt(4000)


def test_a_product_can_be_turned(float64):
    rotation = jnp.asarray(scipy.stats.ortho_group(3).rvs(random_state=0))
    along = jax.random.exponential(jax.random.key(0), (500, 3)) * jnp.array([[1.0, 2.0, 3.0]])
    points, weights = along @ rotation, jnp.full(500, 1 / 500)
    plain = fit(mixtures.product(along, 4), along, weights)
    turned = fit(mixtures.product(along, 4)._replace(rotation=rotation), points, weights)
    np.testing.assert_allclose(turned.factors.means, plain.factors.means, rtol=1e-8)
    np.testing.assert_allclose(mixtures.turn(turned, points), along, atol=1e-12)
    np.testing.assert_allclose(densities(turned, points), densities(plain, along), rtol=1e-8)
    noise = jax.random.normal(jax.random.key(1), (mixtures.noise_size(plain),))
    np.testing.assert_allclose(mixtures.draw(turned, noise) @ rotation.T, mixtures.draw(plain, noise), atol=1e-8)


def test_the_fit_is_likelier_than_the_truth(float64):
    truth, points = two_clusters(4)
    fitted = fit(mixture_of(np.inf, **START), points, jnp.full(1000, 1 / 1000))
    gain = np.sum(np.asarray(densities(fitted, points)) - np.asarray(densities(truth, points)))
    # Twice the gain is about chi-squared with as many degrees of freedom as there are free numbers, 12.
    assert 0 < gain < scipy.stats.chi2(12).isf(6e-7) / 2


def test_a_weight_is_a_number_of_points(float64):
    _, points = two_clusters(4, 500)
    counts = np.repeat([1, 2, 0, 5], 125)
    repeated = jnp.asarray(np.repeat(points, counts, axis=0))
    beside = jnp.asarray(np.concatenate([points, np.full((500, 2), 50.0)]))
    weights = jnp.asarray(np.append(counts, np.zeros(500)) / 1000)
    start = mixture_of(np.inf, **START)
    one, other = fit(start, repeated, jnp.full(1000, 1 / 1000)), fit(start, beside, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), one, other)


def test_weights_move_the_fit_to_another_distribution(float64):
    # Points of a wide normal distribution, weighted to another one.
    wide, narrow = Normal(jnp.zeros(2), jnp.array(3.0)), Normal(jnp.array([1.0, -1.0]), jnp.array([0.7, 1.4]))
    points = 3 * jax.random.normal(jax.random.key(5), (1000, 2))
    weights = jax.nn.softmax(jax.vmap(lambda x: normal.log_ratio(narrow, wide, x))(points))
    fitted = fit(mixture_of(np.inf, **START), points, weights)
    shares = np.exp(fitted.log_shares)
    error = 1 / np.sqrt(1 / np.sum(np.asarray(weights) ** 2))
    mean = shares @ np.asarray(fitted.means)
    assert np.all(np.abs(mean - narrow.mean) < 6 * error * np.asarray(narrow.scale))


def test_a_component_without_points_does_not_spoil_the_fit(float64):
    _, points = two_clusters(np.inf)
    start = mixture_of(np.inf, [0.5, 0.5], [[0.0, 0.0], [1e5, 1e5]], [3 * np.eye(2), np.eye(2)])
    fitted = fit(start, points, jnp.full(1000, 1 / 1000))
    assert all(np.isfinite(leaf).all() for leaf in fitted)
    np.testing.assert_allclose(fitted.means[0], np.mean(points, axis=0), atol=0.3)


def test_shrinkage_keeps_a_component_from_collapsing(float64):
    _, points = two_clusters(np.inf)
    points = points.at[:250].set(points[0])
    start = mixture_of(np.inf, [0.5, 0.5], [points[0], [3.0, 0.0]], [0.1 * np.eye(2), np.eye(2)])
    fitted = mixtures.fit(start, points, jnp.full(1000, 1 / 1000), iterations=15)
    whole = np.cov(np.asarray(points).T)
    for scale in np.asarray(fitted.scales):
        assert scipy.linalg.eigvalsh(scale @ scale.T, whole).min() > 0.005


def test_errors():
    for freedom in (0, 33, 2.5, -1):
        with pytest.raises(ValueError, match=f"freedom must be 1 to 32, or infinity, got {freedom}"):
            mixtures.of_normal(normal.standard(2), freedom)
    start = mixtures.of_normal(normal.standard(2))
    with pytest.raises(ValueError, match="freedom must be 1 to 8, got 9"):
        mixtures.with_own_tails(start, 9)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        mixtures.fit(start, jnp.ones((4, 2)), jnp.full(4, 0.25), iterations=0)


def test_weights_of_importance_sampling_average_to_z_both_ways(precision):
    # Tails of the same power in the target and the prior: weights are bounded from both sides.
    truth, count = mixture_of(3), 10_000
    place = Normal(jnp.array([0.1, -0.2]), jnp.array([[1.4, 0.0], [0.3, 1.5]]))
    prior = mixture_of(3, [0.6, 0.4], [[-1.0, 0.0], [2.0, 0.0]], [np.eye(2), FACTORS[1]])
    sampler = families.importance(place, prior).sampler(())

    def log_density(x):
        return mixtures.log_density(truth, x) + LOG_Z

    @jax.jit
    def forward(key):
        path = paths.sample_path(key, sampler)
        proposal = mixtures.log_density(prior, path.states[0]) - normal.log_determinant(place)
        # The normal parts cancel, at the precision that numbers of their size have.
        size = jnp.sum(path.states[0] ** 2) / 2 + 20
        return losses.log_weight(path, log_density), log_density(path.x) - proposal, size

    @jax.jit
    def back(key, x):
        return losses.log_weight(paths.noise_path(key, sampler, x), log_density)

    keys = jax.random.split(jax.random.key(0), count)
    log_w, direct, size = jax.vmap(forward)(keys)
    assert np.all(np.abs(log_w - direct) < 4 * np.finfo(precision).eps * size)
    points = draws(truth, noise_of(truth, count, 7))
    for log_ratio in (np.asarray(log_w) - LOG_Z, LOG_Z - np.asarray(jax.vmap(back)(keys, points))):
        ratio = np.exp(log_ratio, dtype=np.float64)
        assert 0.01 < ratio.std() < 5
        assert abs(ratio.mean() - 1) < 6 * ratio.std() / np.sqrt(count)


def test_a_heavy_tail_bounds_the_weights_of_a_normal_target():
    # That is at most what it is on the line through both centres.
    place, prior = Normal(jnp.array([1.0, -1.0]), jnp.array(0.8)), mixtures.of_normal(normal.standard(2), 4)
    sampler = families.importance(place, prior).sampler(())

    def log_density(x):
        return normal.log_density(Normal(jnp.zeros(2), jnp.array(1.3)), x) + LOG_Z

    keys = jax.random.split(jax.random.key(1), 10_000)
    log_w = jax.jit(jax.vmap(lambda key: losses.log_weight(paths.sample_path(key, sampler), log_density)))(keys)
    ratio = np.exp(np.asarray(log_w, np.float64) - LOG_Z)
    assert abs(ratio.mean() - 1) < 6 * ratio.std() / np.sqrt(10_000)
    along = np.linspace(-20, 20, 4001)[:, None] * np.array([[1.0, -1.0]])
    target = scipy.stats.multivariate_normal(np.zeros(2), 1.69).logpdf(along)
    proposal = scipy.stats.multivariate_t(np.array([1.0, -1.0]), 0.64 * np.eye(2), df=4).logpdf(along)
    assert 1 < ratio.max() < 1.001 * np.exp(np.max(target - proposal))


def test_a_learned_prior_is_stretched_along_the_columns_of_its_factors():
    mixture = mixture_of(np.inf)
    family = families.with_mixture(families.importance(normal.standard(2)), mixture)
    params = family.init(jax.random.key(0))
    for one, other in zip(family.sampler(params).prior, mixture, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    stretches = np.random.default_rng(0).normal(size=(3, 2))
    moved = family.sampler(params | {"log_stretches": jnp.asarray(stretches), "means": mixture.means + 1}).prior
    for scale, factor, log_stretch in zip(moved.scales, FACTORS, stretches, strict=True):
        exact = factor @ np.diag(np.exp(2 * log_stretch)) @ factor.T
        np.testing.assert_allclose(scale @ scale.T, exact, rtol=1e-4)
    np.testing.assert_allclose(moved.means, MEANS + 1, rtol=1e-6)
    with pytest.raises(ValueError, match="the dimension of mixture must be 3, that of the states of the family, got 2"):
        families.with_mixture(families.importance(normal.standard(3)), mixture)
