"""Population Monte Carlo: what a round is worth, and what the adaptation comes to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from dds import adaptation, estimators, mixtures, normal
from dds.adaptation import Round
from dds.types import Mixture, Product

KEY = jax.random.key(0)


def two_wells(x):
    return jnp.sum(-(x**4) + 4 * x**2 + 0.5 * x)


def test_a_round_with_a_heavy_tail_is_worth_a_tenth():
    u = np.random.default_rng(0).random(4096)
    for k, part in {0.3: 1.0, 1.2: adaptation.PENALTY}.items():
        log_weights = jnp.asarray(-k * np.log(u), jnp.float32)
        ess = float(estimators.effective_sample_size(log_weights))
        assert Round(jnp.zeros((4096, 1)), log_weights).ess == pytest.approx(part * ess, rel=1e-6)


@pytest.mark.slow
def test_a_product_comes_to_a_target_of_independent_coordinates():
    points = 2 * jax.random.normal(jax.random.key(1), (500, 4))
    draw = adaptation.rounds(two_wells, normal.standard(4), 2000)
    start = mixtures.product(points, 8)
    adapted = adaptation.adapt(KEY, draw, start)
    assert isinstance(adapted.prior, Product)
    assert adapted.ess > 0.7 > draw(KEY, start).ess
    # In every coordinate a wide component bounds the weights.
    shares = np.exp(adapted.prior.factors.log_shares)
    assert np.isclose(shares, adaptation.WIDE / 4).any(axis=1).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    one = scipy.integrate.quad(lambda x: np.exp(-(x**4) + 4 * x**2 + 0.5 * x), -5, 5)[0]
    estimate = estimators.log_z(draw(jax.random.key(2), adapted.prior).log_weights)
    assert abs(estimate.value - 4 * np.log(one)) < 6 * estimate.standard_error


def test_the_draws_are_counted_and_the_best_is_kept():
    asked = []

    def draw(key, prior):
        asked.append(prior)
        spread = [3.0, 0.1, 2.0, 2.0][len(asked) - 1]
        log_weights = spread * jax.random.normal(jax.random.key(3), (1000,))
        return Round(jax.random.normal(key, (1000, 2)), log_weights)

    adapted = adaptation.adapt(KEY, draw, mixtures.of_normal(normal.standard(2)), most=10)
    assert (adapted.evaluations, len(asked)) == (2000, 2)  # with nearly equal weights there is nothing to gain
    assert adapted.ess > adaptation.ENOUGH
    assert jax.tree.all(jax.tree.map(np.array_equal, adapted.prior, asked[1]))


@pytest.mark.slow
def test_many_components_are_adapted_where_they_take_no_matrix():
    means = jax.random.normal(jax.random.key(3), (adaptation.ADAPTED + 6, 6)) / 2
    scales = jnp.broadcast_to(0.6 * jnp.eye(6), (len(means), 6, 6))
    many = Mixture(jnp.full(len(means), -np.log(len(means))), means, scales, jnp.asarray(jnp.inf))
    draw = adaptation.rounds(lambda x: -jnp.sum(x**2) / 2, normal.standard(6), 1000)
    assert adaptation.adapt(KEY, draw, many).evaluations == 1000
    adapted = adaptation.adapt(KEY, draw, mixtures.with_own_tails(many))
    assert adapted.evaluations > 1000
    assert adapted.ess > draw(KEY, mixtures.with_own_tails(many)).ess
