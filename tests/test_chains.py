"""Chains in the metric of the density: what they keep, how far they go, and what escapes from a part of a target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy.stats import cauchy, norm, t

from dds import chains, choices, exploration, modes, normal, recipes, results, tails, targets, training, trust


def rosenbrock(x):
    return norm.logpdf(x[0], 1.0, 1.0) + norm.logpdf(x[1], x[0] ** 2, 0.1)


def exact(key, count):
    e = jax.random.normal(key, (count, 2))
    first = 1 + e[:, 0]
    return jnp.stack([first, first**2 + 0.1 * e[:, 1]], axis=1)


@pytest.mark.parametrize("steps", [1, 20])
def test_samples_of_the_target_stay_samples_of_it(steps):
    # A curved valley: the metric changes along a step, so an error in the rule of acceptance would show.
    x = exact(jax.random.key(0), 8000)
    ends = chains.langevin(jax.random.key(1), rosenbrock, x, steps=steps)
    assert np.mean(np.any(np.asarray(ends != x), axis=1)) > 0.3
    for values, truth in (
        (ends[:, 0], scipy.stats.norm(1, 1)),
        ((ends[:, 1] - ends[:, 0] ** 2) / 0.1, scipy.stats.norm()),
    ):
        assert scipy.stats.kstest(np.asarray(values, float), truth.cdf).pvalue > 1e-4


@pytest.mark.slow
def test_they_get_around_in_a_curved_valley_and_in_a_heavy_tail():
    # From one point of the valley to all of it, and from the middle of a Cauchy distribution to its quartiles.
    ends = chains.langevin(jax.random.key(0), rosenbrock, jnp.ones((4000, 2)), steps=200)
    assert scipy.stats.kstest(np.asarray(ends[:, 0], float), scipy.stats.norm(1, 1).cdf).statistic < 0.05
    ends = chains.langevin(jax.random.key(0), lambda x: cauchy.logpdf(x).sum(), jnp.full((4000, 1), 0.1), steps=200)
    np.testing.assert_allclose(np.quantile(np.abs(ends), [0.5, 0.75]), [1.0, 2.414], rtol=0.1)


def test_no_move_goes_where_the_density_is_not_finite():
    def half(x):
        return jnp.where(x[0] > 0, norm.logpdf(x).sum(), jnp.nan)

    x = jnp.abs(jax.random.normal(jax.random.key(0), (1000, 2)))
    ends = np.asarray(chains.langevin(jax.random.key(1), half, x, steps=20))
    assert (ends[:, 0] > 0).all()
    assert ends[:, 1].min() < -1


def escaped(log_density, x, weigh, **options):
    return tails.escaped(jax.random.key(3), log_density, weigh, x, jnp.zeros(len(x)), highest=0.0, **options)


def test_what_escapes_is_the_share_of_what_is_missing():
    x = exact(jax.random.key(0), 40_000)
    inside = x[x[:, 0] < 1.5]
    found = escaped(rosenbrock, inside, lambda points: jnp.where(points[:, 0] < 1.5, 0.0, 10.0))
    missing = scipy.stats.norm.sf(0.5)  # .309
    assert 0.6 * missing < found.share < missing  # a bound, and the chains are still on their way
    assert (found.points[:, 0] >= 1.5).all()
    assert found.evaluations == tails.CHAINS * (tails.STEPS + 1) * 4


def test_nothing_escapes_to_weights_that_are_but_a_little_larger():
    x = exact(jax.random.key(0), 10_000)
    assert escaped(rosenbrock, x[x[:, 0] < 1.5], lambda points: jnp.where(points[:, 0] < 1.5, 0.0, 4.9)).share == 0


def test_what_refined_samples_reach_themselves_is_nothing_that_escapes():
    x = exact(jax.random.key(0), 10_000)
    assert escaped(rosenbrock, x, lambda points: jnp.where(points[:, 0] < 1.5, 0.0, 10.0)).share < 0.01


def test_no_chains_in_many_dimensions():
    x = jnp.zeros((100, tails.LARGEST + 1))
    found = escaped(lambda x: norm.logpdf(x).sum(), x, lambda points: jnp.zeros(len(points)))
    assert found.share == 0
    assert found.evaluations == 0


@pytest.mark.slow
def test_a_valley_in_seven_dimensions_that_is_cut_off():
    # Each coordinate is about half the square of the last, so that the far end is long, narrow and bent.
    def hybrid(x):
        branches = x[1:].reshape(2, 3)
        before = jnp.concatenate([jnp.full((2, 1), x[0]), branches[:, :-1]], axis=1)
        return norm.logpdf(x[0], 1, np.sqrt(1.25)) + norm.logpdf(branches, before**2 / 2, 0.25).sum()

    keys = jax.random.split(jax.random.key(0), 4)
    first = 1 + np.sqrt(1.25) * jax.random.normal(keys[0], (20_000,))
    first = first[first < 2.4]  # all but a tenth
    x, before = [first], [first, first]
    for key in keys[1:]:
        noise = 0.25 * jax.random.normal(key, (2, len(first)))
        before = [level**2 / 2 + noise[i] for i, level in enumerate(before)]
        x += before
    x = jnp.stack([x[i] for i in (0, 1, 3, 5, 2, 4, 6)], axis=1)
    found = escaped(hybrid, x, lambda points: jnp.where(points[:, 0] < 2.4, 0.0, 10.0))
    assert 0.001 < found.share < scipy.stats.norm.sf(2.4, 1, np.sqrt(1.25))


@pytest.mark.slow
def test_chains_are_asked_where_a_particle_lies_where_no_path_goes():
    # A shoulder with 3 % of the mass, five standard deviations away: the weights of the rest are all alike.
    def log_density(x):
        shoulder = jnp.log(0.03) + norm.logpdf(x[0], 5.0, 0.4)
        return jnp.logaddexp(jnp.log(0.97) + norm.logpdf(x[0]), shoulder) + norm.logpdf(x[1])

    target = targets.from_log_density(log_density, 2)
    recipe = recipes.build(recipes.Plan("importance", "an example", recipes.NO_STEPS, normal.standard(2)), target)
    fit = training.fit(jax.random.key(1), *recipe[:4])
    particles = jax.random.normal(jax.random.key(0), (400, 2))
    found = modes.search_from(log_density, jnp.zeros((1, 2)))

    def report(particles):
        explored = exploration.Explored(particles, True, found, 1)
        return results.evaluate(jax.random.key(2), target, recipe, fit, explored=explored).report

    unasked, asked = report(particles), report(particles.at[0, 0].set(5.0))
    assert (unasked.escaped, asked.missed_mass) == (None, 1 / 400)  # one of 400 is no doubt by itself
    assert unasked.ess > 0.99
    assert asked.escaped is not None
    assert trust.ESCAPED < asked.escaped < 0.03
    assert "chains from the samples go on to where no path ends" in trust.verdict(asked)


@pytest.mark.slow
@pytest.mark.parametrize(("freedom", "scale", "name"), [(2.0, 2.0, "escaped"), (1.0, 3.0, "missed_tails")])
def test_a_normal_proposal_for_heavy_tails_along_lines_is_not_trusted(freedom, scale, name):
    # A product of Student-t distributions, turned: the second with an effective sample size of .04.
    rotation = jnp.asarray(scipy.stats.ortho_group.rvs(4, random_state=0), float)

    def log_density(x):
        return t.logpdf(rotation @ x, freedom).sum()

    target = targets.from_log_density(log_density, 4)
    place = normal.Normal(jnp.zeros(4), jnp.array(scale))
    recipe = recipes.build(recipes.Plan("importance", "an example", recipes.NO_STEPS, place), target)
    explored = exploration.explore(jax.random.key(0), log_density, choices.starting_point(target))
    fit = training.fit(jax.random.key(1), *recipe[:4])
    result = results.evaluate(jax.random.key(2), target, recipe, fit, explored=explored)
    assert getattr(result.report, name) > 0.0002
    assert result.verdict.startswith("Do not trust")
