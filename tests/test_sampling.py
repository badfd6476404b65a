"""The look, the climb and what ends it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problem_set import egg_box

import dds
from dds import (
    choices,
    conditional,
    coordinates,
    estimators,
    exploration,
    losses,
    mixtures,
    modes,
    normal,
    recipes,
    remedies,
    results,
    sampling,
    search,
    training,
    trust,
)
from dds.results import Goal
from dds.types import Normal, Target

KEY = jax.random.key(0)


def log_density(x):
    return -0.5 * jnp.sum(x**2)


@pytest.fixture(scope="module")
def result():
    """Of importance sampling from the target itself, without a look."""
    target, place = sampling.as_target(log_density, 2), normal.standard(2)
    found = search.Found(place, mixtures.of_normal(place), None, 1.0, True, modes.none(2), False, "", 0)
    return dds.sample(KEY, target, paths=400, recipe=choices.importance(target, found))


def with_report(result, **changes):
    return result._replace(report=result.report._replace(**changes))


@pytest.mark.slow
def test_the_cheapest_sampler_is_enough_where_it_is():
    result = dds.sample(KEY, log_density, 2, paths=400)
    assert (result.recipe.plan.kind, result.recipe.updates, len(result.history)) == ("importance", 0, 0)
    assert result.log_weights.shape == (400,)
    assert result.report.paths > 400  # the goal of 1,000 samples asks for more than there are
    assert result.report.samples == 400
    assert abs(result.log_z.value - np.log(2 * np.pi)) < 6 * result.log_z.standard_error
    assert "worth 400 independent ones" in result.verdict


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"log_z_standard_error": 0.01}, {"log_z_standard_error": 0.0101}),
        ({"samples": 400.0}, {"samples": 399.0}),  # of 400 samples no more can be asked
        ({"ess": estimators.POOR}, {"ess": estimators.POOR - 1e-3}),
        ({"missed_mass": trust.MISSED}, {"missed_mass": trust.MISSED + 1e-3}),
        ({"log_z_true": 100.0}, {"missed_modes": 1.0}),  # the truth is not asked
        ({"missed_exact": 1.0}, {"nan_share": 0.5}),  # nor are exact samples
    ],
)
def test_a_goal_is_met_on_one_side_of_each_limit(result, good, bad):
    assert sampling.met(with_report(result, **good), Goal(0.01, 1000))
    assert not sampling.met(with_report(result, **bad), Goal(0.01, 1000))


def test_the_better_result_has_fewer_doubts_and_then_the_smaller_error(result):
    doubted = with_report(result, missed_mass=0.5, log_z_standard_error=1e-6)
    worse = with_report(result, log_z_standard_error=1.0)
    assert sampling.better(doubted, worse) is worse
    assert sampling.better(worse, doubted) is worse
    assert sampling.better(worse, result) is result
    # What lies farther out is in the error; what is missed is not.
    far = with_report(result, missed_tails=0.02, escaped=0.01, log_z_standard_error=0.03)
    few = with_report(result, samples=20.0, log_z_standard_error=0.5)
    for pair in ((far, few), (few, far)):
        assert sampling.better(*pair) is far
        assert sampling.better(worse, *pair[:1]) is worse


def test_a_climb_ends_when_the_goal_is_met_and_counts_all_that_was_tried(monkeypatch, result):
    target, asked, kept = result.target, [], []
    errors = iter([0.5, 0.2, 0.001, 0.0])

    def evaluate(key, target, recipe, fit, **rest):
        tried = result.tried[0]._replace(seconds=float(len(asked)))
        return with_report(result, log_z_standard_error=next(errors))._replace(evaluations=7, tried=(tried,))

    monkeypatch.setattr(sampling, "evaluate", evaluate)

    def train(rung, key, recipe):
        asked.append(rung)
        return training.Fit((), np.zeros(0), result.state)

    rungs = [(i, result.recipe) for i in range(4)]
    best = sampling.climb(KEY, target, rungs, train, keep=kept.append)
    assert asked == [0, 1, 2]
    assert (best.report.log_z_standard_error, best.evaluations) == (0.001, 21)
    assert [one.evaluations for one in kept] == [7, 14, 21]
    assert [[tried.seconds for tried in one.tried] for one in kept] == [[1], [1, 2], [1, 2, 3]]
    again = sampling.climb(KEY, target, [], train, best=best)
    assert again is best
    with pytest.raises(ValueError, match="rungs must be one or more"):
        sampling.climb(KEY, target, [], train)


def test_a_rung_that_finds_less_than_another_does_not_end_the_climb(monkeypatch, result):
    figures = iter([(0.0, 0.02), (-0.2, 0.001), (0.001, 0.001)])

    def evaluate(key, target, recipe, fit, **rest):
        log_z, error = next(figures)
        return with_report(result, log_z=log_z, log_z_standard_error=error)

    monkeypatch.setattr(sampling, "evaluate", evaluate)
    kept = []
    fit = training.Fit((), np.zeros(0), result.state)
    rungs = [(i, result.recipe) for i in range(3)]
    best = sampling.climb(KEY, result.target, rungs, lambda *_: fit, keep=kept.append)
    assert [one.report.log_z for one in kept] == [0.0, 0.0, 0.001]
    assert best.verdict.startswith("Trust")


@pytest.mark.slow
def test_a_mode_that_only_the_second_look_finds_is_looked_for_again(monkeypatch):
    # In few dimensions the wide component of the prior would cover both.
    two = dds.targets.gaussian_mixture(jnp.outer(jnp.array([-6.0, 6.0]), jnp.eye(6)[0]), jnp.array([1.0, 0.5]))
    target = Target(6, two.log_density, start=Normal(jnp.zeros(6), jnp.array(4.0)))
    every, calls = modes.search, []

    def blind_at_first(key, log_density, start, **options):
        found = every(key, log_density, start, **options)
        calls.append(len(found.points))
        if len(calls) not in (2, 3):  # these are the calls of the first search and the second
            return found
        left = found.points[:, 0] < 0
        return modes.Modes(*(leaf[left] for leaf in found[:3]), found.counts[np.asarray(left)], found.evaluations)

    monkeypatch.setattr(modes, "search", blind_at_first)
    monkeypatch.setattr(modes, "OPERATIONS", 1e4)
    looked = sampling.look(KEY, target)
    assert len(calls) == 4
    assert looked.found.several_modes
    assert abs(looked.result.log_z.value) < 6 * looked.result.log_z.standard_error
    assert looked.result.verdict.startswith("Trust")
    assert looked.evaluations > looked.result.evaluations
    assert len(looked.result.tried) == 2
    assert looked.result.tried[1].log_z == looked.result.report.log_z


def test_paths_that_end_where_the_density_is_not_a_number_count_as_zero():
    def broken(x):
        return jnp.where(x[0] > 2.0, jnp.nan, log_density(x))

    target = Target(2, broken)
    plan = recipes.Plan("importance", "an example", recipes.NO_STEPS, Normal(jnp.zeros(2), jnp.ones(())))
    recipe = recipes.build(plan, target)
    explored = exploration.Explored(jnp.zeros((400, 2)), True, modes.search_from(log_density, jnp.eye(2)), 0)
    fit = training.fit(KEY, *recipe[:4])
    result = results.evaluate(KEY, target, recipe, fit, paths=20_000, explored=explored)
    share = 0.02275
    assert result.report.nan_share == pytest.approx(share, abs=6 * np.sqrt(share / 20_000))
    assert result.log_z.value == pytest.approx(np.log(2 * np.pi * (1 - share)), abs=0.01)
    assert "end where the density is not a number" in result.verdict
    assert result.verdict.startswith("Do not trust")


@pytest.mark.slow
def test_a_doubt_by_few_particles_is_asked_of_more(monkeypatch):
    target = dds.targets.gaussian(jnp.zeros(2), jnp.eye(2))._replace(sample=None, log_z=None)
    evaluate, asked = sampling.evaluate, []

    def doubtful(*arguments, explored, **options):
        result = evaluate(*arguments, explored=explored, **options)
        asked.append(len(explored.points))
        return with_report(result, missed_mass=0.05 if len(asked) == 1 else 0.0)

    monkeypatch.setattr(sampling, "evaluate", doubtful)
    monkeypatch.setattr(modes, "OPERATIONS", 1e4)
    looked = sampling.look(KEY, target)
    assert asked == [exploration.EXPLORERS, 4 * exploration.EXPLORERS]
    assert sampling.met(looked.result, results.GOAL)


@pytest.mark.slow
def test_particles_that_are_of_no_help_are_counted(monkeypatch):
    target = dds.targets.gaussian(jnp.zeros(2), jnp.eye(2))._replace(sample=None, log_z=None)
    evaluate, searched = sampling.evaluate, search.search
    called = []

    def doubtful(*arguments, **options):
        return with_report(evaluate(*arguments, **options), missed_modes=0.1)

    def again(*arguments, **options):
        called.append("search")
        return searched(*arguments, **options)

    def of_no_help(key, log_density, start, found):
        called.append("temper")
        return found._replace(evaluations=found.evaluations + 10**9)

    monkeypatch.setattr(sampling, "evaluate", doubtful)
    monkeypatch.setattr(search, "search", again)
    monkeypatch.setattr(remedies, "temper", of_no_help)
    looked = sampling.look(KEY, target)
    assert called == ["search", "search", "temper", "search"]
    assert 10**9 < looked.evaluations < 2 * 10**9


@pytest.mark.parametrize(
    ("doubt", "expected"),
    [
        ({"log_z_standard_error": 0.5}, ["temper"]),
        ({"escaped": 0.5}, ["temper"]),
        ({"missed_tails": 0.5}, ["widen", "temper"]),
        ({"missed_mass": 0.5}, ["extend", "explore", "temper"]),
        ({"missed_modes": 0.5}, ["search", "explore", "temper", "search", "explore"]),
    ],
)
def test_each_doubt_has_its_remedies_and_where_none_helps_the_look_ends(monkeypatch, result, doubt, expected):
    place, called = normal.standard(2), []
    found = search.Found(place, mixtures.of_normal(place), None, 0.5, True, modes.none(2), False, "", 1)
    points = jnp.zeros((exploration.EXPLORERS, 2))

    def explore(key, log_density, start, *, count=exploration.EXPLORERS):
        called.append("explore")
        return exploration.Explored(jnp.broadcast_to(points[:1], (count, 2)), True, modes.none(2), 100)

    def searched(*arguments, **options):
        called.append("search")
        return found

    def of_no_help(name):
        def remedy(*arguments):
            called.append(name)
            before = next(each for each in arguments if isinstance(each, search.Found))
            return before._replace(evaluations=before.evaluations + 10_000)

        return remedy

    for name in ("temper", "extend", "widen", "straighten"):
        monkeypatch.setattr(remedies, name, of_no_help(name))
    monkeypatch.setattr(exploration, "explore", explore)
    monkeypatch.setattr(search, "search", searched)
    doubtful = with_report(result, **doubt)._replace(evaluations=10**6)
    monkeypatch.setattr(sampling, "evaluate", lambda *arguments, **options: doubtful)
    looked = sampling.look(KEY, result.target)
    assert called[:2] == ["explore", "search"]
    assert called[2:] == expected
    # All that was called is counted, and nothing twice.
    costs = {"search": 1, "explore": 100}
    looks = round(looked.evaluations / 10**6)
    assert looked.evaluations == looks * 10**6 + sum(costs.get(name, 10_000) for name in called)


def test_a_sampler_that_finds_less_than_another_is_doubted(result):
    low = with_report(result, log_z=result.report.log_z - 0.1, log_z_standard_error=0.001)
    known = sampling.beside([result, low])
    assert [one.verdict.startswith("Trust") for one in known] == [True, False]
    assert "another sampler found more" in known[1].verdict
    assert sampling.better(*known[::-1]).report.log_z == result.report.log_z
    # What has no estimate of its own accuses nobody.
    broken = with_report(result, log_z=result.report.log_z + 1, samples=5.0)
    assert sampling.beside([result, broken])[0].report.log_z_of_another is None


def test_the_ladder_ends_with_particles_where_there_are_any(monkeypatch):
    asked = []

    def choose(key, target, *, found):
        asked.append(found.several_modes)
        points = jnp.zeros((4, target.dim)) if found.several_modes else None
        plan = recipes.Plan("network", "", recipes.DEFAULTS["network"], normal.standard(target.dim), points)
        return recipes.build(plan, target)

    monkeypatch.setattr(choices, "choose", choose)
    for dim, several, expected in ((2, False, [False, True]), (2, True, [True]), (modes.DENSE + 1, False, [False])):
        target = Target(dim, lambda x: -jnp.sum(x**2) / 2)
        none = search.Found(
            normal.standard(dim), mixtures.of_normal(normal.standard(2)), None, 0.0, True, modes.none(2), several, "", 0
        )
        assert len(list(choices.ladder(KEY, target, none))) == len(expected)
        assert asked == expected
        asked.clear()


@pytest.mark.slow
def test_what_is_trained_runs_in_the_coordinates_of_a_neck():
    target = dds.targets.funnel(4)
    neck, _ = conditional.tabulate(target.log_density, normal.standard(4), jnp.eye(4)[:1])
    prior = mixtures.of_normal(normal.standard(4))
    found = search.Found(normal.standard(4), prior, neck, 0.1, True, modes.none(4), False, "", 0)
    rungs = list(choices.ladder(KEY, target, found))
    plans = [rung.plan for rung in rungs if rung.plan is not None]
    assert [plan.kind for plan in plans] == ["gates", "gates", "modes"]
    assert all(plan.neck is neck for plan in plans)
    # Untrained the sampler is good, and particles pass the neck: in other coordinates neither is so.
    sampler = rungs[0].family.sampler(rungs[0].family.init(KEY))
    log_w = jax.jit(lambda key: losses.log_weights(sampler, key, target.log_density, 2000))(KEY)
    assert float(estimators.effective_sample_size(log_w)) > 0.9
    points = plans[2].points
    assert points is not None
    assert abs(np.mean(points[:, 0] < -6) - 0.0228) < 0.006
    assert abs(np.mean(points[:, 0] > 6) - 0.0228) < 0.006


@pytest.mark.slow
def test_what_no_path_of_its_own_finds_is_learned_from_particles():
    # A continuum of modes: neither a normal fit nor components around some of them cover it.
    target = dds.targets.double_well_particles()
    assert target.log_z is not None
    result = dds.sample(KEY, target._replace(log_z=None))
    assert result.tried[-1].kind == "modes"
    assert all(tried.log_z_standard_error > 0.1 for tried in result.tried[:-1])
    assert abs(result.report.log_z - target.log_z) < 4 * result.report.log_z_standard_error < 0.6
    assert result.verdict.startswith("Trust")


@pytest.mark.slow
def test_modes_that_come_to_light_one_after_another_are_fitted_together():
    # Eighteen modes and parts of modes on the edges: each search finds some that those before did not.
    target = egg_box()
    assert target.log_z is not None
    result = dds.sample(KEY, target._replace(log_z=None))
    assert [tried.kind for tried in result.tried] == 3 * ["importance"]
    assert "tempered particles, with a mixture" in result.recipe.why
    assert abs(result.report.log_z - target.log_z) < 4 * result.report.log_z_standard_error < 0.04
    assert result.verdict.startswith("Trust")


@pytest.mark.slow
def test_a_mode_that_is_larger_than_every_other_is_not_all():
    # Of wells in 75 coordinates the right-hand ones together are the largest mode, and the only one that the search
    # minds: but it has three millionths of the whole. Particles say so, and a product is fitted to them.
    target = dds.targets.many_well(150)
    assert target.log_z is not None
    result = dds.sample(KEY, target.log_density, 150, scale=2.0)
    assert result.recipe.why.startswith("one mode")
    assert result.verdict.startswith("Trust")
    assert abs(result.report.log_z - target.log_z) < 4 * result.report.log_z_standard_error < 0.04


@pytest.mark.slow
def test_in_many_dimensions_of_a_costly_density_modes_are_the_only_check(monkeypatch):
    monkeypatch.setattr(coordinates, "EFFORT", 0)
    dim = modes.DENSE + 1
    means = jnp.outer(jnp.array([-6.0, 6.0]), jnp.eye(dim)[0])
    two = dds.targets.gaussian_mixture(means, jnp.ones(2), jnp.array([3.0, 1.0]))
    target = Target(dim, two.log_density, start=Normal(jnp.zeros(dim), jnp.array(3.0)))
    looked = sampling.look(KEY, target)
    report = looked.result.report
    assert (report.settled, report.missed_mass, report.missed_modes) == (None, None, 0.0)
    assert abs(report.log_z) < 6 * report.log_z_standard_error + 1e-5  # rounding, of log densities of a hundred
    assert sampling.met(looked.result, results.GOAL)
    left = Normal(means[0], jnp.ones(()))
    recipe = recipes.build(recipes.Plan("importance", "an example", recipes.NO_STEPS, left), target)
    fit = training.fit(KEY, *recipe[:4])
    blind = results.evaluate(KEY, target, recipe, fit, explored=looked.explored)
    assert blind.report.missed_modes == pytest.approx(0.25, abs=0.01)
    assert "at coordinate 0 about 6.0" in blind.verdict


def test_a_sampler_that_never_meets_the_target_is_said_to():
    def far(x):
        return jnp.where(x[0] > 50, log_density(x - 60), -jnp.inf)

    plan = recipes.Plan("importance", "an example", recipes.NO_STEPS, Normal(jnp.zeros(2), jnp.ones(())))
    target = Target(2, far)
    recipe = recipes.build(plan, target)
    found = modes.search_from(far, 60.0 + jnp.eye(2))
    explored = exploration.Explored(jnp.full((400, 2), 60.0), True, found, 0)
    result = results.evaluate(KEY, target, recipe, training.fit(KEY, *recipe[:4]), paths=100, explored=explored)
    assert "all are zero" in result.verdict
    assert (result.report.log_z, result.report.where) == (-np.inf, "")


def test_goals_and_numbers_are_checked():
    for name, value in (("precision", 0.0), ("draws", 0), ("paths", estimators.LEAST - 1)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            dds.sample(KEY, log_density, 2, **{name: value})


@pytest.mark.slow
def test_a_budget_ends_the_look_the_ladder_and_a_training(monkeypatch, result):
    evaluated, evaluate = [], sampling.evaluate

    def doubtful(*arguments, **options):
        evaluated.append(1)
        return with_report(evaluate(*arguments, **options), missed_modes=1.0)

    monkeypatch.setattr(sampling, "evaluate", doubtful)
    spent = dds.sample(KEY, log_density, 2, paths=400, seconds=1e-9)
    assert (len(evaluated), spent.recipe.plan.kind) == (1, "importance")
    recipe = choices.choose(KEY, result.target, numbers={"updates": 60, "batch": 4, "steps": 8})
    spent = dds.sample(KEY, result.target, recipe=recipe, paths=400, seconds=1e-9)
    assert len(spent.history) == sampling.BLOCK  # it ends with its first block


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_budget_is_positive(seconds):
    with pytest.raises(ValueError, match=f"seconds must be positive, got {seconds}"):
        dds.sample(KEY, log_density, 2, seconds=seconds)
