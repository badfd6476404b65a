"""Mass farther out than any draw: known shares of heavy tails, none of light ones, and what is done about them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy.stats import cauchy, norm

import dds
from dds import conditional, modes, normal, remedies, search, tails
from dds.types import Normal, Product

COUNT = 10_000


@pytest.fixture(autouse=True)
def few_climbs(monkeypatch):
    monkeypatch.setattr(modes, "OPERATIONS", 1e4)


def beyond(log_density, prior, seed=0, coordinates=None):
    """What lies beyond draws from a normal distribution, and the draws."""
    x = jax.vmap(lambda e: normal.reparameterise(prior, e))(
        jax.random.normal(jax.random.key(seed), (COUNT, prior.mean.size))
    )

    @jax.jit
    def weigh(points):
        return jax.vmap(lambda x: log_density(x) - normal.log_density(prior, x))(points)

    place = coordinates or prior
    return tails.beyond(jax.random.key(seed + 1), log_density, place, weigh, x, weigh(x)), np.asarray(x)


@pytest.mark.parametrize("seed", range(3))
def test_of_a_cauchy_distribution_all_beyond_the_draws(seed):
    found, x = beyond(lambda x: cauchy.logpdf(x[0]) + 3.0, normal.standard(1), 10 * seed)
    # The largest weight is that of the farthest draw: all farther points are above it.
    truth = 2 * scipy.stats.cauchy.sf(np.abs(x).max())
    assert found.share == pytest.approx(truth, rel=0.15)
    assert (np.abs(found.points) > np.abs(x).max()).all()


def test_of_one_heavy_coordinate_among_others():
    def log_density(x):
        return norm.logpdf(x[:5]).sum() + cauchy.logpdf(x[5]) + norm.logpdf(x[6:]).sum()

    found, x = beyond(log_density, normal.standard(8))
    # In eight dimensions the weights depend on one coordinate only.
    truth = 2 * scipy.stats.cauchy.sf(np.abs(x[:, 5]).max())
    assert found.share == pytest.approx(truth, rel=0.2)
    spread = np.std(found.points, axis=0)
    assert np.argmax(spread) == 5
    assert spread[5] > 5 * np.delete(spread, 5).max()


@pytest.mark.parametrize("dim", [1, 3, 50, 200])
def test_nothing_beyond_where_tails_are_light(dim):
    wider = Normal(jnp.ones(dim), jnp.asarray(1.1))
    found, _ = beyond(lambda x: norm.logpdf(x, 1.0).sum(), wider)
    assert found.share == 0
    assert len(found.points) == 0


def test_rounding_far_out_is_no_mass():
    # log Gamma(k + 1) - log Gamma(k) = log k: of two numbers of 1e8 for a k of e^16.
    def log_density(x):
        k = jnp.exp(x[0])
        rounding = jax.scipy.special.gammaln(k + 1) - jax.scipy.special.gammaln(k) - x[0]
        return norm.logpdf(x).sum() + 20 * rounding

    far = jnp.stack([jnp.linspace(12.0, 18.0, 100), jnp.zeros(100)], axis=1)
    assert jnp.max(jax.vmap(log_density)(far)) > 0  # as a density it is garbage there
    here = normal.standard(2)
    x = jax.random.normal(jax.random.key(0), (10_000, 2))

    def weigh(points):
        return jax.vmap(lambda x: log_density(x) - normal.log_density(here, x))(points)

    assert tails.beyond(jax.random.key(1), log_density, here, weigh, x, weigh(x)).share < 1e-9


@pytest.mark.slow
def test_the_far_end_of_a_neck_in_coordinates_that_know_of_it():
    funnel = dds.targets.funnel(4)
    place = conditional.bijection(conditional.tabulate(funnel.log_density, normal.standard(4), jnp.eye(4)[:1])[0])
    # Draws whose first coordinate is half as wide as the target's: its tails are never drawn.
    y = 0.5 * jax.random.normal(jax.random.key(0), (COUNT, 1))
    y = jnp.concatenate([y, jax.random.normal(jax.random.key(1), (COUNT, 3))], axis=1)

    def log_q(y):
        return norm.logpdf(y[0], 0, 0.5) + norm.logpdf(y[1:]).sum()

    @jax.jit
    def weigh(points):
        def one(x):
            y, log_determinant = place.inverse(x)
            return funnel.log_density(x) + log_determinant - log_q(y)

        return jax.vmap(one)(points)

    x = jax.jit(jax.vmap(lambda y: place.forward(y)[0]))(y)
    found = tails.beyond(jax.random.key(2), funnel.log_density, place, weigh, x, weigh(x))
    truth = 2 * scipy.stats.norm.sf(float(jnp.abs(y[:, 0]).max()))
    assert 0.03 < truth < 0.1
    assert found.share == pytest.approx(truth, rel=0.35)


@pytest.mark.slow
def test_a_prior_is_widened_where_something_lies_beyond():
    def log_density(x):
        return cauchy.logpdf(x[0]) + norm.logpdf(x[1:]).sum() + 2.0

    found = search.search(jax.random.key(0), log_density, normal.standard(4))
    narrow = found._replace(
        neck=None, coordinates=normal.standard(4), prior=dds.mixtures.of_normal(normal.standard(4)), ess=0.5
    )
    wider = remedies.widen(jax.random.key(1), log_density, narrow)
    assert wider.evaluations > narrow.evaluations
    scales = np.asarray(dds.mixtures.moments(wider.prior).scale)
    assert scales[0, 0] > 20
    assert np.abs(np.diagonal(scales)[1:]).max() < 3


@pytest.mark.slow
def test_a_product_is_widened_by_a_small_share_in_each_coordinate():
    def log_density(x):
        return cauchy.logpdf(x[0]) + norm.logpdf(x[1:]).sum()

    found = search.search(jax.random.key(0), log_density, normal.standard(4))
    one = dds.mixtures.of_normal(normal.standard(1))
    factors = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), one)
    narrow = found._replace(neck=None, coordinates=normal.standard(4), prior=Product(factors), ess=0.5)
    wider = remedies.widen(jax.random.key(1), log_density, narrow)
    shares = np.exp(np.asarray(wider.prior.factors.log_shares))
    assert shares.shape[1] > 1
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(shares[:, -1], remedies.SHARE / 4, rtol=1e-5)
    assert np.asarray(wider.prior.factors.scales)[0].max() > 5


@pytest.mark.slow
def test_nothing_is_widened_in_vain():
    found = search.search(jax.random.key(0), lambda x: norm.logpdf(x).sum(), normal.standard(3))
    assert remedies.widen(jax.random.key(1), lambda x: norm.logpdf(x).sum(), found).prior is found.prior


@pytest.mark.slow
def test_one_heavy_coordinate_from_end_to_end():
    result = dds.sample(jax.random.key(0), lambda x: cauchy.logpdf(x[0]) + norm.logpdf(x[1:]).sum(), 5)
    assert abs(float(result.log_z.value)) < 4 * float(result.log_z.standard_error)
    assert result.report.missed_tails < 0.005
    assert result.verdict.startswith("Trust")
