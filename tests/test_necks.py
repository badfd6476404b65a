"""Where a neck is: the few coordinates, or combinations of these, given which the others are nearly normal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from jax.scipy.stats import norm
from problems import axes, normal_target, shifted_normal_density

from dds import necks, normal, targets
from dds.types import Normal


def neck_of(log_density, fit, seed=0):
    dim = fit.mean.size
    return necks.search(log_density, fit, jax.random.normal(jax.random.key(seed), (2, 256, dim)))[0]


@pytest.mark.parametrize("dim", [2, 6, 100])
def test_neck_of_the_funnel_is_its_first_coordinate(dim):
    few = neck_of(targets.funnel(dim).log_density, normal.standard(dim))
    np.testing.assert_array_equal(few, axes(dim, 0))


def test_neck_of_two_funnels_is_two_coordinates_wherever_they_are():
    one = targets.funnel(3).log_density
    order = jnp.array([2, 0, 5, 4, 1, 3])

    def log_density(x):
        return one(x[order[:3]]) + one(x[order[3:]])

    few = neck_of(log_density, normal.standard(6))
    np.testing.assert_array_equal(np.sort(few, axis=0), np.sort(axes(6, 2, 4), axis=0))


@pytest.mark.parametrize("dim", [2, 3, 5, 20])
def test_neck_of_a_rotated_funnel_is_a_combination_of_coordinates(float64, dim):
    rotation = jnp.asarray(scipy.stats.ortho_group.rvs(dim, random_state=dim))
    funnel = targets.funnel(dim).log_density
    few = neck_of(lambda x: funnel(rotation @ x), normal.standard(dim))
    assert len(few) == 1
    assert abs(few[0] @ rotation[0]) / jnp.linalg.norm(few) > 0.9999


def test_necks_of_two_rotated_funnels_are_two_combinations(float64):
    one, rotation = targets.funnel(4).log_density, jnp.asarray(scipy.stats.ortho_group.rvs(8, random_state=8))

    def log_density(x):
        turned = rotation @ x
        return one(turned[:4]) + one(turned[4:])

    few = neck_of(log_density, normal.standard(8))
    assert len(few) == 2
    angles = scipy.linalg.subspace_angles(np.asarray(few).T, np.asarray(rotation)[[0, 4]].T)
    assert np.all(angles < 0.02)


def test_a_second_weaker_neck_counts_too():
    # The second scale is known to 3 %: what is left of the sum is little, but all due to it.
    def log_density(x):
        strong = norm.logpdf(x[0], 0, 2) + norm.logpdf(x[1:4], 0, jnp.exp(x[0] / 2)).sum()
        return strong + norm.logpdf(x[4], 0, 0.03) + norm.logpdf(x[5:], 0, jnp.exp(x[4])).sum()

    fit = Normal(jnp.zeros(8), jnp.ones(8).at[4].set(0.03))
    np.testing.assert_array_equal(neck_of(log_density, fit), axes(8, 0, 4))

    # Where little is left, and it is due to many, one more is of no use.
    few = neck_of(lambda x: log_density(x.at[4].set(0.0)) + 0.02 * jnp.sum(x**3), fit)
    np.testing.assert_array_equal(few, axes(8, 0))


def test_where_the_others_are_a_little_skew_there_is_a_neck_all_the_same():
    # Poisson counts whose log rates have an unknown mean and scale, the second coordinate; the fit is that of a search.
    counts = jnp.array([1.0, 2, 4, 3, 7, 2, 2, 0, 7, 7])

    def log_density(x):
        prior = (
            norm.logpdf(x[0], 0, 3) + norm.logpdf(jnp.exp(x[1])) + x[1] + norm.logpdf(x[2:], x[0], jnp.exp(x[1])).sum()
        )
        return prior + jnp.sum(counts * x[2:] - jnp.exp(x[2:]))

    mean = jnp.array([1.06, -0.42, 0.6, 0.83, 1.21, 1.04, 1.65, 0.83, 0.83, 0.34, 1.65, 1.65])
    deviations = jnp.array([0.27, 0.28, 0.5, 0.47, 0.41, 0.43, 0.37, 0.47, 0.47, 0.56, 0.37, 0.37])
    few = neck_of(log_density, Normal(mean, deviations))
    assert len(few) <= 2
    assert jnp.argmax(jnp.abs(few[0])) == 1


def test_a_normal_target_has_no_neck():
    mean, covariance = normal_target(4)
    log_density = shifted_normal_density(mean, covariance, 5.5)
    assert len(neck_of(log_density, Normal(mean, jnp.linalg.cholesky(covariance)))) == 0


def test_evaluations_count_every_third_derivative_as_four():
    calls = []

    def log_density(x):
        jax.debug.callback(lambda x: calls.append(1), x)
        return targets.funnel(4).log_density(x)

    _, evaluations = necks.search(log_density, normal.standard(4), jax.random.normal(jax.random.key(0), (2, 16, 4)))
    jax.effects_barrier()
    assert evaluations == 4 * len(calls)


def test_there_is_no_neck_where_every_coordinate_is_curved_by_itself():
    assert len(neck_of(lambda x: -jnp.sum(x**4), normal.standard(6))) == 0
