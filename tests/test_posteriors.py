import json
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats
from problem_set import SCHOOLS, eight_schools, half_cauchy, log_mass_of_scale

import dds
from dds.targets import (
    brownian,
    brownian_known_scales,
    cox_process,
    german_credit,
    ionosphere,
    law_school,
    logistic_regression,
    rats,
    seeds,
    sonar,
)

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
SEEN = np.r_[0:10, 20:30]


def data(name):
    text = resources.files("dds.targets").joinpath("data", f"{name}.csv").read_text()
    return np.array([[float(number) for number in line.split(",")] for line in text.split()[1:]])


def points(dim, scale, count=5):
    return np.random.default_rng(dim).normal(size=(count, dim)) * scale


def evaluate(target, x, precision):
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(target.log_density)))(x.astype(precision))
    assert values.dtype == gradients.dtype == precision
    assert np.all(np.isfinite(gradients))
    return values


def with_ones(x):
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def logistic_log_density(design, labels, prior_scale, w):
    prior = scipy.stats.norm.logpdf(w, 0, prior_scale).sum()
    return prior + scipy.stats.bernoulli.logpmf(labels, scipy.special.expit(design @ w)).sum()


@pytest.mark.parametrize(
    ("name", "target", "rows", "positive"),
    [("ionosphere", ionosphere, 351, 225), ("sonar", sonar, 208, 97), ("german_credit", german_credit, 1000, 300)],
)
def test_logistic_density_is_that_of_scipy(precision, name, target, rows, positive):
    table = data(name)
    x, y, scale = table[:, :-1], table[:, -1], 1.0
    if name == "german_credit":
        x, y, scale = x / x.std(axis=0), y - 1, 10.0
    else:
        spread = x.std(axis=0)
        x = (x - x.mean(axis=0)) / np.where(spread == 0, 1, spread)
        constant = spread == 0
        assert np.flatnonzero(constant).tolist() == ([1] if name == "ionosphere" else [])
        np.testing.assert_allclose(np.linalg.norm(x[:, ~constant], axis=0) ** 2, rows, rtol=1e-12)
    assert y.shape == (rows,)
    assert y.sum() == positive
    w = points(x.shape[1] + 1, 0.3)
    exact = [logistic_log_density(with_ones(x), y, scale, v) for v in w]
    np.testing.assert_allclose(evaluate(target(), w, precision), exact, rtol=TOLERANCE[precision])


def test_logistic_density_is_finite_where_probabilities_round_to_zero(precision):
    # Each of the ten logits is +-1000 or more, and half of the labels are wrong.
    features, labels = np.linspace(1, 2, 10)[:, None], np.arange(10) % 2
    target = logistic_regression(features, labels, prior_scale=2.0)
    w = np.array([0.0, 1000.0])
    exact = scipy.stats.norm.logpdf(w, 0, 2).sum() - 1000 * features[labels == 0].sum()
    np.testing.assert_allclose(evaluate(target, w[None], precision)[0], exact, rtol=TOLERANCE[precision])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"features": [[np.nan], [1.0]]}, "features must be finite"),
        ({"labels": [0, 2]}, "labels must be 0 or 1, got \\[2\\]"),
        ({"labels": [-1.0, 1.0]}, "labels must be 0 or 1, got \\[-1"),
        ({"prior_scale": 0.0}, "prior_scale must be positive and finite, got 0.0"),
    ],
)
def test_logistic_regression_says_what_is_wrong(argument, message):
    good = {"features": [[0.5], [1.0]], "labels": [0, 1], "prior_scale": 1.0} | argument
    with pytest.raises(ValueError, match=message):
        logistic_regression(np.array(good["features"]), np.array(good["labels"]), prior_scale=good["prior_scale"])


def test_logistic_regression_takes_arrays_of_both_kinds():
    features, labels = np.array([[0.5, 1.0], [1.0, -2.0]]), np.array([0, 1])
    w = jnp.array([0.1, 0.2, 0.3])
    value = logistic_regression(features, labels).log_density(w)
    assert value == logistic_regression(jnp.asarray(features), jnp.asarray(labels, float)).log_density(w)


def test_seeds_density_is_that_of_scipy(precision):
    kind, extract, germinated, total = data("seeds").T
    assert (len(kind), germinated.sum(), total.sum()) == (21, 424, 831)
    assert [np.sum((kind == k) & (extract == e)) for k in (0, 1) for e in (0, 1)] == [5, 6, 5, 5]
    x = points(26, 0.5) + np.eye(26)[0]
    exact = []
    for log_tau, a0, a1, a2, a12, *b in x:
        tau = np.exp(log_tau)
        logits = a0 + a1 * kind + a2 * extract + a12 * kind * extract + b
        exact.append(
            scipy.stats.gamma.logpdf(tau, 0.01, scale=100)
            + log_tau
            + scipy.stats.norm.logpdf([a0, a1, a2, a12], 0, 10).sum()
            + scipy.stats.norm.logpdf(b, 0, tau**-0.5).sum()
            + scipy.stats.binom.logpmf(germinated, total, scipy.special.expit(logits)).sum()
        )
    np.testing.assert_allclose(evaluate(seeds(), x, precision), exact, rtol=TOLERANCE[precision])


def test_seeds_log_z_is_that_of_quadrature():
    """Given the scale of the effects, the plates are independent given the four logits of the kinds of plate."""
    kind, extract, germinated, total = data("seeds").T
    group = (kind + 2 * extract).astype(int)
    plates, successes, trials = (np.bincount(group, w) for w in (np.ones(21), germinated, total))
    rate = successes / trials
    nodes, weights = np.polynomial.legendre.leggauss(40)
    effects = np.linspace(-9, 9, 161)
    log_effects = scipy.stats.norm.logpdf(effects) + np.log(effects[1] - effects[0])

    def log_evidence(log_tau):
        # Eight standard deviations of the logits, more or less, on either side.
        spread = 8 * np.sqrt(1 / (trials * rate * (1 - rate)) + np.exp(-log_tau) / plates)
        logits = scipy.special.logit(rate)[:, None] + spread[:, None] * nodes
        first, second, third, fourth = np.ix_(*logits)
        # The coefficients are a linear function of the logits, of determinant one.
        squares = first**2 + (second - first) ** 2 + (third - first) ** 2 + (fourth - second - third + first) ** 2
        prior = np.exp(-squares / 200 - 2 * np.log(200 * np.pi))
        shifted = logits[group][:, :, None] + effects * np.exp(-log_tau / 2)
        binomial = germinated[:, None, None] * shifted - total[:, None, None] * np.logaddexp(0, shifted)
        each = scipy.special.logsumexp(binomial + log_effects, axis=2)
        groups = np.array([each[group == g].sum(axis=0) for g in range(4)])
        highest = groups.max(axis=1)
        factors = spread[:, None] * weights * np.exp(groups - highest[:, None])
        integral = np.einsum("abcd,a,b,c,d->", prior, *factors, optimize=True)
        return highest.sum() + np.log(integral) + scipy.stats.gamma.logpdf(np.exp(log_tau), 0.01, scale=100) + log_tau

    grid = np.linspace(-4, 10, 29)
    log_choose = scipy.special.gammaln([total + 1, germinated + 1, total - germinated + 1]).T @ [1, -1, -1]
    exact = scipy.special.logsumexp([log_evidence(t) for t in grid]) + np.log(grid[1] - grid[0]) + log_choose.sum()
    assert seeds().log_z == pytest.approx(exact, abs=1e-6)


def test_rats_density_is_that_of_scipy(precision):
    weights, days = data("rats"), np.array([8.0, 15.0, 22.0, 29.0, 36.0])
    assert (weights.shape, weights.sum()) == ((30, 5), 36398)
    x = np.concatenate([[1.8, 2.7, -0.6, 240, 6], np.full(30, 240), np.full(30, 6)]) + points(65, 0.5)
    exact = []
    for log_sigma, log_levels, log_slopes, level, slope, *lines in x:
        levels, slopes = np.array(lines[:30]), np.array(lines[30:])
        exact.append(
            scipy.stats.norm.logpdf([log_sigma, log_levels, log_slopes], 0, 2).sum()
            + scipy.stats.norm.logpdf([level, slope], 0, 1000).sum()
            + scipy.stats.norm.logpdf(levels, level, np.exp(log_levels)).sum()
            + scipy.stats.norm.logpdf(slopes, slope, np.exp(log_slopes)).sum()
            + scipy.stats.norm.logpdf(weights, levels[:, None] + slopes[:, None] * (days - 22), np.exp(log_sigma)).sum()
        )
    np.testing.assert_allclose(evaluate(rats(), x, precision), exact, rtol=TOLERANCE[precision])


def rats_evidence(log_sigma, log_levels, log_slopes):
    """Given the scales, least squares leave three numbers of noise, and the levels and slopes are normal."""
    weights, days = data("rats"), np.arange(-14, 15, 7)
    count, squares = len(weights), days @ days
    lines = np.stack([weights.mean(axis=1), weights @ days / squares])
    rest = np.sum((weights - lines[0][:, None] - np.outer(lines[1], days)) ** 2)
    noise = -1.5 * count * np.log(2 * np.pi) - 3 * count * log_sigma - 0.5 * rest * np.exp(-2 * log_sigma)

    def of_lines(values, log_spread, squares):
        variance = np.exp(2 * log_spread) + np.exp(2 * log_sigma) / squares
        within = -0.5 * (count - 1) * np.log(2 * np.pi * variance) - 0.5 * count * np.var(values) / variance
        of_mean = scipy.stats.norm.logpdf(np.mean(values), 0, np.sqrt(1e6 + variance / count))
        return within + of_mean - 0.5 * np.log(count) - 0.5 * count * np.log(squares)

    return noise + of_lines(lines[0], log_levels, len(days)) + of_lines(lines[1], log_slopes, squares)


def test_rats_log_z_is_that_of_quadrature():
    days, count = np.arange(-14, 15, 7), 30
    level, slope = (np.kron(np.eye(count), np.outer(part, part)) for part in (np.ones(5), days))
    shared = 1e6 * (np.outer(np.ones(150), np.ones(150)) + np.outer(np.tile(days, count), np.tile(days, count)))
    covariance = shared + np.exp(5.4) * level + np.exp(-1.2) * slope + np.exp(3.6) * np.eye(150)
    exact = scipy.stats.multivariate_normal(np.zeros(150), covariance).logpdf(data("rats").ravel())
    assert rats_evidence(1.8, 2.7, -0.6) == pytest.approx(exact, abs=1e-5)
    # The trapezoidal rule, for the scale of the noise where it has its mass.
    grid, of_noise = np.linspace(-14, 14, 225), np.linspace(0.5, 3, 61)
    log_values = rats_evidence(of_noise[:, None, None], grid[:, None], grid)
    for axis, values in enumerate((of_noise, grid, grid)):
        log_values += scipy.stats.norm.logpdf(np.expand_dims(values, tuple({0, 1, 2} - {axis})), 0, 2)
    volume = (of_noise[1] - of_noise[0]) * (grid[1] - grid[0]) ** 2
    assert rats().log_z == pytest.approx(scipy.special.logsumexp(log_values) + np.log(volume), abs=1e-5)


def law_school_log_density(x, nodes):
    """The density of several points, by Gauss and Hermite's rule with so many nodes."""
    answers, persons = data("law_school")[:, :-1], data("law_school")[:, -1]
    abilities, weights = np.polynomial.hermite_e.hermegauss(nodes)
    slopes, intercepts = np.exp(x[:, :5]), x[:, 5:]
    logits = (2 * answers - 1)[:, :, None] * (intercepts[:, :, None] + slopes[:, :, None] * abilities)[:, None]
    patterns = np.exp(-np.logaddexp(0, -logits).sum(axis=2)) @ weights / weights.sum()
    prior = scipy.stats.norm.logpdf(x, 0, np.repeat([1, 5], 5)).sum(axis=1)
    return prior + np.log(patterns) @ persons


def test_law_school_density_is_that_of_numpy(precision):
    assert data("law_school").shape == (32, 6)
    assert data("law_school")[:, -1].sum() == 1000
    x = np.array([-0.3] * 5 + [2.8, 1.0, 0.2, 1.3, 2.1]) + points(10, 0.5)
    exact = law_school_log_density(x, 150)
    np.testing.assert_allclose(evaluate(law_school(), x, precision), exact, rtol=TOLERANCE[precision])


@pytest.mark.slow
def test_law_school_log_z_is_that_of_importance_sampling():
    # Rounds of a Student-t distribution with the moments of the last.
    rng = np.random.default_rng(0)
    mean, factor, freedom = np.array([-0.3] * 5 + [2.8, 1.0, 0.2, 1.3, 2.1]), 0.4 * np.eye(10), 5
    for count in (20_000, 40_000, 100_000):
        proposal = scipy.stats.multivariate_t(mean, factor @ factor.T, df=freedom, seed=rng)
        x = proposal.rvs(count)
        parts = [law_school_log_density(part, 61) for part in np.array_split(x, count // 2000)]
        log_weights = np.concatenate(parts) - proposal.logpdf(x)
        shares = np.exp(log_weights - scipy.special.logsumexp(log_weights))
        mean = shares @ x
        factor = np.linalg.cholesky((x - mean).T @ ((x - mean) * shares[:, None]))
    estimate, error = log_mean(log_weights)
    assert error < 0.01
    target = law_school()
    assert abs(estimate - target.log_z) < 6 * np.hypot(error, target.log_z_error)


@pytest.mark.slow
@pytest.mark.parametrize("make", [rats, law_school])
def test_both_have_the_evidence_that_they_are_said_to_have(make):
    target = make()
    result = dds.sample(jax.random.key(0), target._replace(log_z=None))
    assert abs(result.report.log_z - target.log_z) < 5 * result.report.log_z_standard_error < 0.05
    assert result.verdict.startswith("Trust")


def test_brownian_density_is_that_of_scipy(precision):
    observed = data("brownian")[:, 0]
    assert np.flatnonzero(np.isfinite(observed)).tolist() == SEEN.tolist()
    x = points(32, 0.3) - np.eye(32)[:2].sum(axis=0)
    exact = [
        scipy.stats.lognorm.logpdf(np.exp(point[:2]), 2).sum()
        + point[:2].sum()
        + brownian_log_joint(point[2:], *np.exp(point[:2]), observed)
        for point in x
    ]
    np.testing.assert_allclose(evaluate(brownian(), x, precision), exact, rtol=TOLERANCE[precision])
    known = [brownian_log_joint(point[2:], 0.1, 0.15, observed) for point in x]
    np.testing.assert_allclose(evaluate(brownian_known_scales(), x[:, 2:], precision), known, rtol=TOLERANCE[precision])


def brownian_log_joint(path, innovation_scale, observation_scale, observed):
    steps = scipy.stats.norm.logpdf(path, np.concatenate([[0], path[:-1]]), innovation_scale)
    return steps.sum() + scipy.stats.norm.logpdf(observed[SEEN], path[SEEN], observation_scale).sum()


def brownian_evidence(innovation_scale, observation_scale):
    """The log evidence of the observations given the two scales, in the coordinates where they are independent."""
    times = 1 + SEEN
    variances, rotation = np.linalg.eigh(np.minimum.outer(times, times))
    rotated = rotation.T @ data("brownian")[SEEN, 0]
    total = np.expand_dims(innovation_scale**2, -1) * variances + np.expand_dims(observation_scale**2, -1)
    return scipy.stats.norm.logpdf(rotated, 0, np.sqrt(total)).sum(axis=-1)


def test_brownian_log_z_with_known_scales_is_the_evidence():
    times = 1 + SEEN
    covariance = 0.1**2 * np.minimum.outer(times, times) + 0.15**2 * np.eye(20)
    exact = scipy.stats.multivariate_normal(np.zeros(20), covariance).logpdf(data("brownian")[SEEN, 0])
    assert brownian_evidence(np.array(0.1), np.array(0.15)) == pytest.approx(exact, abs=1e-10)
    assert brownian_known_scales().log_z == pytest.approx(exact, abs=1e-6)


def test_brownian_log_z_is_that_of_quadrature():
    # The trapezoidal rule in the logarithms of the scales: exact to 1e-9 for so fine and wide a grid.
    grid = np.linspace(-14, 8, 221)
    log_prior = scipy.stats.norm.logpdf(grid, 0, 2)
    log_values = log_prior[:, None] + log_prior + brownian_evidence(*np.exp(np.meshgrid(grid, grid, indexing="ij")))
    exact = scipy.special.logsumexp(log_values) + 2 * np.log(grid[1] - grid[0])
    assert brownian().log_z == pytest.approx(exact, abs=1e-6)


def test_brownian_sampler_has_the_moments_of_the_posterior():
    target = brownian_known_scales()
    x = np.asarray(jax.jit(jax.vmap(target.sample))(jax.random.split(jax.random.key(0), 50_000)), np.float64)
    times = 1 + np.arange(30)
    prior = 0.1**2 * np.minimum.outer(times, times)
    gain = prior[:, SEEN] @ np.linalg.inv(prior[np.ix_(SEEN, SEEN)] + 0.15**2 * np.eye(20))
    mean, covariance = gain @ data("brownian")[SEEN, 0], prior - gain @ prior[SEEN]
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
    assert min(scipy.stats.kstest(row, "norm").pvalue for row in whitened) > 1e-6
    assert np.abs(np.cov(whitened) - np.eye(30)).max() < 6 * np.sqrt(2 / len(x))


@pytest.mark.parametrize("grid", [2, 9])
def test_cox_process_density_is_that_of_scipy(precision, grid):
    pines = (data("finnish_pines") + np.array([5, 8])) / 10
    assert pines.shape == (126, 2)
    assert np.all((pines > 0) & (pines < 1))
    mean, covariance, counts = cox_model(pines, grid)
    assert counts.sum() == 126
    x = mean + points(grid**2, 1.0) @ np.linalg.cholesky(covariance).T
    prior = scipy.stats.multivariate_normal(np.full(grid**2, mean), covariance).logpdf(x)
    # The likelihood of Poisson counts, apart from what does not depend on the point.
    constant = counts.sum() * np.log(grid**2) + scipy.special.gammaln(counts + 1).sum()
    exact = prior + scipy.stats.poisson.logpmf(counts, np.exp(x) / grid**2).sum(axis=1) + constant
    np.testing.assert_allclose(evaluate(cox_process(grid), x, precision), exact, rtol=TOLERANCE[precision])


def cox_model(pines, grid):
    cells = [divmod(cell, grid) for cell in range(grid**2)]
    counts = np.zeros(grid**2)
    for first, second in pines:
        counts[cells.index((int(first * grid), int(second * grid)))] += 1
    between = [[np.hypot(a[0] - b[0], a[1] - b[1]) for a in cells] for b in cells]
    return np.log(126) - 1.91 / 2, 1.91 * np.exp(-np.array(between) / (grid / 33)), counts


def test_cox_process_at_full_size_has_the_prior_of_a_cholesky_factor():
    target = cox_process()
    assert target.dim == 1600
    assert target.log_z is None
    # Along fields that are one number everywhere: the prior is a parabola there.
    row, column = np.divmod(np.arange(1600), 40)
    covariance = 1.91 * np.exp(-np.hypot(row[:, None] - row, column[:, None] - column) * 33 / 40)
    factor, lower = scipy.linalg.cho_factor(covariance, lower=True)
    precision = scipy.linalg.cho_solve((factor, lower), np.ones(1600)).sum()
    level = np.array([3.0, 5.0])
    prior = -0.5 * precision * (level - np.log(126) + 1.91 / 2) ** 2 - np.log(np.diagonal(factor)).sum()
    exact = prior - 800 * np.log(2 * np.pi) + 126 * level - np.exp(level)
    ours = evaluate(target, np.full((2, 1600), level[:, None]), "float32")
    np.testing.assert_allclose(ours, exact, rtol=TOLERANCE["float32"])


@pytest.mark.parametrize("grid", [-1, 0, 1])
def test_cox_process_needs_a_grid(grid):
    with pytest.raises(ValueError, match=f"grid must be at least 2, got {grid}"):
        cox_process(grid)


@pytest.mark.parametrize(
    "target", [ionosphere, seeds, rats, law_school, brownian, brownian_known_scales, lambda: cox_process(3)]
)
def test_points_of_another_dimension_are_refused(target):
    made = target()
    with pytest.raises(ValueError, match=f"the shape of x must be \\({made.dim},\\)"):
        made.log_density(jnp.zeros(made.dim + 1))


def test_targets_made_in_double_precision_work_in_single():
    with jax.enable_x64(True):
        made = [sonar(), brownian_known_scales(), cox_process(4)]
    for target in made:
        assert evaluate(target, points(target.dim, 0.1), "float32").dtype == jnp.float32


def reference_moments(name):
    text = resources.files("dds.targets").joinpath("data", "reference_moments.json").read_text()
    return {field: value if field == "how" else np.array(value) for field, value in json.loads(text)[name].items()}


@pytest.mark.parametrize(
    "make", [brownian, brownian_known_scales, cox_process, german_credit, ionosphere, seeds, sonar]
)
def test_reference_moments_are_complete(make):
    moments = reference_moments(make.__name__)
    dim = {"cox_process": 1600}.get(make.__name__) or make().dim
    assert set(moments) == {"mean", "sd", "mcse", "mcse_sd", "how"}
    for field in ("mean", "sd", "mcse", "mcse_sd"):
        assert moments[field].shape == (dim,)
    assert np.all(moments["mcse"] < 0.02 * moments["sd"])
    assert np.all(moments["mcse_sd"] < 0.05 * moments["sd"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "temperatures", "reference_error"),
    [(german_credit, 30, 0.001), (ionosphere, 150, 0.002), (sonar, 150, 0.002)],
)
def test_logistic_figures_are_those_of_annealed_importance_sampling(float64, make, temperatures, reference_error):
    target, moments = make(), reference_moments(make.__name__)
    log_weights, x = annealed_importance_sampling(jax.random.key(0), target, 1000, temperatures)
    estimate, error = log_mean(log_weights)
    assert error < 0.02
    assert abs(estimate - target.log_z) < 6 * np.hypot(error, reference_error)

    weights = np.exp(log_weights - scipy.special.logsumexp(log_weights))
    mean = weights @ x
    errors = np.sqrt(weights**2 @ (x - mean) ** 2)
    assert np.all(np.abs(mean - moments["mean"]) < 6 * np.hypot(errors, moments["mcse"]))
    sd = np.sqrt(weights @ (x - mean) ** 2)
    assert np.all(np.abs(sd / moments["sd"] - 1) < 0.2)


@pytest.mark.slow
def test_cox_process_log_z_is_as_documented(float64):
    log_weights, _ = annealed_importance_sampling(jax.random.key(0), cox_process(), 32, 100)
    estimate, error = log_mean(log_weights)
    assert abs(estimate - 501.79) < 6 * np.hypot(error, 0.05)


def log_mean(log_weights):
    """The logarithm of the mean weight, and its standard error."""
    relative = np.exp(log_weights - log_weights.max())
    error = relative.std(ddof=1) / relative.mean() / np.sqrt(len(relative))
    return log_weights.max() + np.log(relative.mean()), error


def annealed_importance_sampling(key, target, chains, temperatures, leaps=3):
    """Log weights and points: from the Laplace fit, by Hamiltonian moves."""
    energy = jax.jit(lambda x: -target.log_density(x))
    hessian = jax.jit(jax.hessian(energy))
    start, derivative = np.zeros(target.dim), jax.jit(jax.grad(energy))
    mode = scipy.optimize.minimize(energy, start, jac=derivative, hess=hessian, method="trust-exact", tol=1e-8).x
    factor = jnp.linalg.cholesky(jnp.linalg.inv(hessian(mode)))
    log_volume = jnp.log(jnp.diagonal(factor)).sum() + 0.5 * target.dim * jnp.log(2 * jnp.pi)

    def log_ratio(z):
        return target.log_density(mode + factor @ z) + log_volume + 0.5 * jnp.sum(z**2)

    def one(key):
        start_key, key = jax.random.split(key)

        def anneal(carry, inverse_temperature):
            z, log_weight, key = carry
            key, momentum_key, step_key, accept_key = jax.random.split(key, 4)
            log_weight += log_ratio(z) / temperatures

            def log_law(z):
                return inverse_temperature * log_ratio(z) - 0.5 * jnp.sum(z**2)

            step = jax.random.uniform(step_key, minval=0.3, maxval=0.7) * (35 / target.dim) ** 0.25
            momentum = jax.random.normal(momentum_key, z.shape)
            moved, speed = z, momentum + 0.5 * step * jax.grad(log_law)(z)
            for leap in range(leaps):
                moved = moved + step * speed
                speed = speed + (step if leap < leaps - 1 else 0.5 * step) * jax.grad(log_law)(moved)
            gain = log_law(moved) - log_law(z) + 0.5 * jnp.sum(momentum**2 - speed**2)
            z = jnp.where(jnp.log(jax.random.uniform(accept_key)) < gain, moved, z)
            return (z, log_weight, key), None

        z = jax.random.normal(start_key, (target.dim,))
        steps = jnp.arange(1, temperatures + 1) / temperatures
        (z, log_weight, _), _ = jax.lax.scan(anneal, (z, jnp.zeros(()), key), steps)
        return log_weight, mode + factor @ z

    log_weights, x = jax.jit(jax.vmap(one))(jax.random.split(key, chains))
    return np.asarray(log_weights), np.asarray(x)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_the_neck_of_a_centred_hierarchical_model(seed):
    target = eight_schools()
    log_z = float(target.log_z)
    truth = np.exp(log_mass_of_scale(*SCHOOLS, 5.0, half_cauchy, (-30.0, -3.0)) - log_z)
    assert truth == pytest.approx(0.0101, abs=5e-5)
    result = dds.sample(jax.random.key(seed), target._replace(log_z=None))
    assert abs(result.report.log_z - log_z) < 0.01
    weights = np.exp(np.asarray(result.log_weights, float) - float(result.log_z.value))
    share = np.sum(weights * (np.asarray(result.samples)[:, 1] < -3)) / np.sum(weights)
    assert abs(share - truth) < 0.003  # of 10,000 samples three standard errors
    assert result.verdict.startswith("Trust")
