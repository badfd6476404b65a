"""Coordinates for necks: the table and the bijection, given the few coordinates that a neck is due to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy.stats import norm
from problems import axes, normal_target, shifted_normal_density

from dds import conditional, estimators, families, losses, mixtures, normal, targets
from dds.types import Mixture, Normal

LOG_Z = 5.5
WIDTH = 3.0


def noise_of(dim, seed=0):
    return jax.random.normal(jax.random.key(seed), (16, dim))


def curved(x):
    """Neither normal nor independent given any of its coordinates; strictly concave given the third."""
    mixed = 0.3 * jnp.sum(x[1:] * x[:-1])
    return -0.5 * jnp.sum(x**2) - mixed - 0.1 * jnp.sum(x**4) - 0.5 * jnp.exp(x[2]) * x[0] ** 2 + 0.4 * jnp.sin(x[1])


def correlated_fit(dim=4):
    mean, covariance = normal_target(dim)
    return Normal(mean, jnp.linalg.cholesky(covariance))


def marginal(distribution, few):
    """The normal distribution of a few coordinates."""
    covariance = distribution.scale @ distribution.scale.T
    return scipy.stats.multivariate_normal(np.asarray(distribution.mean)[few], np.asarray(covariance)[np.ix_(few, few)])


def in_place(neck, target, y):
    """The log density in the coordinates of a neck, less the standard normal one of all but the few."""
    few = neck.first.mean.size
    flat = normal.pull_back(conditional.bijection(neck), target)
    return jax.jit(jax.vmap(flat))(y) - scipy.stats.norm.logpdf(y[:, few:]).sum(axis=1)


SLANTED = jnp.array([[1.0, 0.5, -2.0, 0.3], [0.0, 3.0, 1.0, 2.0]])


@pytest.mark.parametrize("few", [axes(4, 3, 0), axes(4, 1, 2, 3), SLANTED])
def test_inverse_and_log_determinant(float64, few):
    neck, _ = conditional.tabulate(curved, correlated_fit(), few)
    place = conditional.bijection(neck)
    assert place.dim == 4

    @jax.jit
    @jax.vmap
    def both(y):
        x, log_determinant = place.forward(y)
        return x, log_determinant, *place.inverse(x)

    y = jnp.concatenate([2 * noise_of(4, 1), 30 * noise_of(4, 5)])  # some lie beyond the table
    x, ahead, back, again = both(y)
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda y: place.forward(y)[0])))(y)
    np.testing.assert_allclose(back, y, rtol=1e-8, atol=1e-8)
    signs, exact = np.linalg.slogdet(np.asarray(jacobian))
    assert np.all(np.abs(signs) == 1)
    np.testing.assert_allclose(ahead, exact, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again, exact, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(both(back)[0], x, rtol=1e-8, atol=1e-8)
    # The few come first, and depend on nothing else; coordinates of the target keep their order.
    other = y.at[:, len(few) :].add(1.0)
    np.testing.assert_allclose(both(other)[0] @ few.T, x @ few.T, rtol=1e-9, atol=1e-9)
    first = jax.vmap(lambda y: normal.reparameterise(neck.first, y))(y[:, : len(few)])
    if not neck.shear.any():
        np.testing.assert_allclose(x @ few.T, first, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dim", "position"), [(2, 0), (5, 3)])
def test_the_funnel_is_normal_in_these_coordinates(float64, dim, position):
    funnel = targets.funnel(dim, scale=WIDTH).log_density
    neck, evaluations = conditional.tabulate(
        lambda x: funnel(jnp.roll(x, -position)), correlated_fit(dim), axes(dim, position)
    )
    assert evaluations > len(neck.modes) * dim
    # The few are standardised by the moments of their density, which is here what the profile is.
    np.testing.assert_allclose(neck.first.mean, 0, atol=0.05)
    np.testing.assert_allclose(neck.first.scale, WIDTH, rtol=0.02)
    assert np.all(np.asarray(neck.ends[:, 0]) * WIDTH > [-12 * WIDTH, 5 * WIDTH])
    assert np.all(np.asarray(neck.ends[:, 0]) * WIDTH < [-5 * WIDTH, 12 * WIDTH])
    y = 2 * noise_of(dim, 2)
    v = neck.first.mean + y[:, 0] * neck.first.scale[0, 0]
    exact = scipy.stats.norm(0, WIDTH).logpdf(v) + np.log(neck.first.scale[0, 0])
    log_density = in_place(neck, lambda x: funnel(jnp.roll(x, -position)), y)
    np.testing.assert_allclose(log_density, exact, rtol=1e-7, atol=1e-7)


def test_a_rotated_funnel_is_normal_in_these_coordinates(float64):
    rotation = jnp.asarray(scipy.stats.ortho_group.rvs(4, random_state=1))
    funnel = targets.funnel(4, scale=WIDTH).log_density

    def log_density(x):
        return funnel(rotation @ x)

    neck, _ = conditional.tabulate(log_density, normal.standard(4), rotation[:1])
    y = 2 * noise_of(4, 2)
    v = jax.vmap(conditional.bijection(neck).forward)(y)[0] @ rotation[0]
    scale = abs(neck.first.scale[0, 0] * rotation[0, neck.order[0]])
    exact = scipy.stats.norm(0, WIDTH).logpdf(v) + np.log(scale)
    np.testing.assert_allclose(in_place(neck, log_density, y), exact, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(scale, WIDTH, rtol=0.02)


@pytest.mark.parametrize("few", [(3,), (1, 2), (0, 2, 3)])
def test_a_normal_target_is_normal_in_these_coordinates(float64, few):
    mean, covariance = normal_target(4)
    target = shifted_normal_density(mean, covariance, LOG_Z)
    # From a fit in the wrong place, and with the wrong scale.
    neck, _ = conditional.tabulate(target, Normal(mean + 1.0, 0.5 * jnp.eye(4)), axes(4, *few))
    y = noise_of(4, 3)
    u = jax.vmap(lambda y: normal.reparameterise(neck.first, y))(y[:, : len(few)])
    own = marginal(Normal(mean, jnp.linalg.cholesky(covariance)), list(few))
    exact = own.logpdf(u) + float(normal.log_determinant(neck.first)) + LOG_Z
    np.testing.assert_allclose(in_place(neck, target, y), exact, rtol=1e-8, atol=1e-8)
    # In three dimensions the nodes from which the moments come are few.
    np.testing.assert_allclose(neck.first.mean, own.mean, atol=0.2)
    np.testing.assert_allclose(neck.first.scale @ neck.first.scale.T, own.cov, atol=0.3)


def test_the_table_reaches_where_the_mass_is_and_not_only_where_the_middle_is():
    # A neck in a neck: where the first is wide, the second has 30 times the deviation that it has in the middle.
    def few_density(x):
        return norm.logpdf(x[0], 0, 3) + norm.logpdf(x[1], 0, jnp.exp(x[0] / 2))

    def log_density(x):
        return few_density(x) + norm.logpdf(x[2:], 0, jnp.exp(x[1] / 2)).sum()

    neck, _ = conditional.tabulate(log_density, normal.standard(4), axes(4, 1, 0))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 4)) * [3, 1, 1, 1]
    x[:, 1] *= np.exp(x[:, 0] / 2)
    x[:, 2:] *= np.exp(x[:, 1:2] / 2)

    @jax.jit
    @jax.vmap
    def error(x):
        y, log_determinant = conditional.bijection(neck).inverse(x)
        flat = log_density(x) + log_determinant - norm.logpdf(y[2:]).sum()
        return flat - few_density(x) - normal.log_determinant(neck.first)

    assert np.mean(np.abs(error(jnp.asarray(x, jnp.float32))) < 0.1) > 0.99


def test_a_mode_far_from_that_of_the_fit_is_followed(float64):
    # The mode of the second is a square of the first, its curvature rises from end to end; the fit knows neither.
    def log_density(x):
        return -0.5 * (x[0] / 2) ** 2 - 0.5 * jnp.exp(0.5 * x[0]) * (x[1] - x[0] ** 2) ** 2

    neck, _ = conditional.tabulate(log_density, normal.standard(2), axes(2, 0))
    y = noise_of(2, 6)
    u = neck.first.mean + neck.first.scale[0, 0] * y[:, 0]
    exact = -0.125 * u**2 - 0.25 * u + np.log(neck.first.scale[0, 0]) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(in_place(neck, log_density, y), exact, atol=0.05)


def test_a_newton_step_that_would_go_too_far_is_shortened(float64):
    # A whole step from z to the mode of -sqrt(1 + z^2) ends at -z^3: it goes astray where modes are far apart.
    def log_density(x):
        return -0.5 * (x[0] / 2) ** 2 - jnp.sqrt(1 + (x[1] - 1.6 * x[0]) ** 2)

    neck, _ = conditional.tabulate(log_density, normal.standard(2), axes(2, 0))
    nodes = np.sinh(np.linspace(*np.arcsinh(np.asarray(neck.ends)[:, 0]), len(neck.modes)))
    u = np.asarray(neck.first.mean + neck.first.scale[0, 0] * nodes)
    assert np.abs(u).max() > 8
    np.testing.assert_allclose(neck.modes[:, 0], 1.6 * u, atol=0.1)


@pytest.mark.parametrize("kind", ["normal", "mixture"])
def test_importance_sampling_of_a_funnel(kind):
    dim, count, widening = 4, 20_000, 1.2
    target = targets.funnel(dim, scale=WIDTH)

    def log_density(x):
        return target.log_density(x) + LOG_Z

    fit = Normal(jnp.zeros(dim), jnp.ones(dim).at[0].set(WIDTH))
    prior = Normal(jnp.zeros(dim), jnp.ones(dim).at[0].set(widening))
    if kind == "mixture":
        prior = mixtures.of_normal(prior)
        prior = Mixture(jnp.log(jnp.array([0.4, 0.6])), *(jnp.repeat(leaf, 2, 0) for leaf in prior[1:3]), prior.freedom)
    neck, _ = conditional.tabulate(log_density, fit, axes(4, 0))
    sampler = families.importance(conditional.bijection(neck), prior).sampler(())
    log_w = jax.jit(lambda key: losses.log_weights(sampler, key, log_density, count))(jax.random.key(0))
    ratio = np.exp(np.asarray(log_w, np.float64) - LOG_Z)
    assert abs(ratio.mean() - 1) < 6 * ratio.std() / np.sqrt(count)
    ess = float(estimators.effective_sample_size(log_w))
    assert ess > 0.9
    # The second moment of the ratio of two centred normal densities, whose largest value is `widening`.
    exact = widening**2 / np.sqrt(2 * widening**2 - 1)
    assert abs(np.mean(ratio**2) - exact) < 6 * np.std(ratio**2) / np.sqrt(count)
    assert ratio.max() < widening * (1 + 1e-3)


def test_where_the_curvature_is_not_positive_definite_what_was_found_before_takes_its_place(float64):
    # Given the first coordinate, the second has a mode at zero where that is positive, and a saddle where it is not.
    def log_density(x):
        return -0.5 * (x[0] - 1) ** 2 - 0.5 * x[0] * x[1] ** 2 - 0.05 * x[1] ** 4

    fit = Normal(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.5]))
    neck, _ = conditional.tabulate(log_density, fit, axes(2, 0))
    place = conditional.bijection(neck)
    u = jnp.array([-1.5, -0.7, 0.8, 1.5, 2.5])
    y = jnp.stack([(u - neck.first.mean) / neck.first.scale[0, 0], jnp.array([0.7, -1.5, 0.7, -2.0, 1.0])], axis=1)
    x, ahead = jax.jit(jax.vmap(place.forward))(y)
    back, again = jax.jit(jax.vmap(place.inverse))(x)
    np.testing.assert_allclose(back, y, rtol=1e-8)
    np.testing.assert_allclose(again, ahead, rtol=1e-9)
    np.testing.assert_allclose(x[2:, 1], y[2:, 1] / np.sqrt(x[2:, 0]), rtol=0.02)
    # The smallest curvature on the way down from one that is a stop: not all of them are passed at the same place.
    assert np.all(np.abs(x[:2, 1] / y[:2, 1]) < 30)
    assert np.all(np.abs(x[:2, 1] / y[:2, 1]) > 1)


def test_without_any_curvature_the_map_given_the_few_is_that_of_the_fit(float64):
    fit = correlated_fit()
    neck, _ = conditional.tabulate(lambda x: -0.5 * x[0] ** 2 + jnp.sum(x[1:]), fit, axes(4, 0))
    place = conditional.bijection(neck)
    y = noise_of(4, 4)
    x, log_determinant = jax.jit(jax.vmap(place.forward))(y)
    own = marginal(fit, [0])
    given = normal.log_determinant(fit) - 0.5 * np.log(own.cov.item())
    np.testing.assert_allclose(log_determinant, float(given + normal.log_determinant(neck.first)), rtol=1e-8)
    # Given the first, the others are a rotation of those of the fit.
    at = jax.vmap(lambda x: normal.standardise(fit, x))(x)
    first = np.square(x[:, 0] - own.mean.item()) / own.cov.item()
    np.testing.assert_allclose(np.sum(at**2, axis=1) - first, np.sum(y[:, 1:] ** 2, axis=1), rtol=1e-7)


@pytest.mark.parametrize(
    "few", [axes(3), axes(3, 0, 1, 2), axes(3, 0, 0), jnp.zeros((1, 3)), jnp.array([[jnp.nan, 1.0, 0.0]])]
)
def test_few_must_be_some_independent_rows(few):
    with pytest.raises(ValueError, match="few must be one to 3 independent rows"):
        conditional.tabulate(targets.funnel(3).log_density, normal.standard(3), few)


@pytest.mark.slow
def test_a_deep_neck_in_single_precision():
    # A centred hierarchical model: given log tau the rest is exactly normal, so each weight is the marginal density of
    # log tau, however deep. There the directions differ in width by a factor of a thousand.
    y, widths = np.array([28.0, 8.0, -3.0, 7.0]), np.array([15.0, 10.0, 16.0, 11.0])

    def log_density(x):
        mu, log_tau, theta = x[0], x[1], x[2:]
        groups = norm.logpdf(theta, mu, jnp.exp(log_tau)).sum() + norm.logpdf(y, theta, widths).sum()
        return norm.logpdf(mu, 0, 5) + norm.logpdf(log_tau, 0, 3) + groups

    neck, _ = conditional.tabulate(log_density, Normal(jnp.zeros(6), jnp.ones(())), axes(6, 1))
    pulled = normal.pull_back(conditional.bijection(neck), log_density)
    rest = jax.random.normal(jax.random.key(0), (100, 5))
    for log_tau in (-2.0, -5.0, -8.0):
        first = (log_tau - neck.first.mean[0]) / neck.first.scale[0, 0]
        states = jnp.concatenate([jnp.full((100, 1), first), rest], axis=1)
        log_w = jax.vmap(pulled)(states) - scipy.stats.norm.logpdf(rest).sum(axis=1)
        variances = widths**2 + np.exp(2 * log_tau)
        precision = 1 / 25 + np.sum(1 / variances)
        quadratic = np.sum(y**2 / variances) - np.sum(y / variances) ** 2 / precision
        exact = -0.5 * (quadratic + np.sum(np.log(2 * np.pi * variances)) + np.log(25 * precision))
        exact += scipy.stats.norm.logpdf(log_tau, 0, 3) + np.log(neck.first.scale[0, 0])
        np.testing.assert_allclose(log_w, exact, atol=0.05)
