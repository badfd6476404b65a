"""The one call, and what can be done with its result."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dds
from dds import (
    choices,
    conditional,
    estimators,
    evaluation,
    exploration,
    families,
    losses,
    mixtures,
    modes,
    normal,
    paths,
    recipes,
    results,
    storage,
    training,
    trust,
)

KEY = jax.random.key(0)
LOG_Z = 1.5 * np.log(2 * np.pi) + np.log(2.0)
SHIFT = jnp.array([1.0, -2.0])
LIKE = {"a": jnp.zeros(2), "b": jnp.zeros(())}
NUMBERS = {"steps": 4, "updates": 30, "batch": 16, "noise": 1.0}


def log_density(tree):
    return -jnp.sum((tree["a"] - SHIFT) ** 2) / 2 - tree["b"] ** 2 / 8


def small(target, **options):
    return choices.choose(jax.random.key(9), target, numbers=NUMBERS, **options)


@pytest.fixture(scope="module")
def result():
    target = dds.sampling.as_target(log_density, LIKE)
    return dds.sample(jax.random.key(0), target, paths=400, recipe=small(target))


@pytest.mark.slow
def test_samples_have_the_structure_and_the_moments_of_the_parameters(result):
    assert jax.tree.map(jnp.shape, result.samples) == {"a": (400, 2), "b": (400,)}
    assert abs(result.log_z.value - LOG_Z) < 6 * result.log_z.standard_error + 1e-3
    assert np.all(np.abs(result.samples["a"].mean(axis=0) - SHIFT) < 6 / np.sqrt(400))
    assert result.verdict.startswith("Trust")
    assert result.history.shape == (30,)
    assert result.evaluations > sum(result.recipe.evaluations) > 30 * 16 * 5
    assert result.seconds[0] > result.seconds[1] > 0
    report = result.report
    assert result.tried == (("gates", report.log_z, report.log_z_standard_error, report.ess, result.seconds[0]),)


def test_fewer_paths_are_drawn_side_by_side_where_each_takes_matrices():
    def at_once(coordinates):
        return results._at_once(families.importance(coordinates).sampler(()))

    # A neck has up to eight nodes around a point, with a matrix each: no more than a gigabyte in single precision.
    assert at_once(normal.bijection(normal.standard(20))) is None
    assert at_once(normal.standard(500)) is None
    many = at_once(normal.bijection(normal.standard(500)))
    assert many is not None
    assert 4 * 8 * 500**2 * many <= 2**30


def test_more_paths_are_drawn_where_they_reach_the_goal_and_are_not_too_many():
    rng, goal = np.random.default_rng(0), results.Goal(precision=0.01, draws=1000)
    log_w = rng.normal(size=10_000).astype(np.float32)
    error = float(estimators.log_z(log_w).standard_error)
    least, enough = (int(10_000 * (parts * error / 0.01) ** 2) for parts in (1.25, 4))
    assert 10_000 < least < enough
    for most, more in ((least - 1, 0), (least, least - 10_000), (enough, enough - 10_000), (10**9, enough - 10_000)):
        assert results._more(log_w, 10_000, goal, most) == more
    assert results._more(np.zeros(10_000, np.float32), 10_000, goal, 10**9) == 0


@pytest.mark.slow
def test_more_samples_are_others(result):
    more = dds.draw(jax.random.key(1), result, 50)
    assert more.samples["a"].shape == (50, 2)
    assert not np.isin(more.samples["b"], result.samples["b"]).any()
    again = dds.draw(jax.random.key(1), result, 50)
    np.testing.assert_array_equal(more.log_weights, again.log_weights)


def test_resampled_ones_are_shuffled_and_in_proportion():
    samples, log_w = jnp.arange(4.0)[:, None], jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0]))
    drawn = dds.resample(jax.random.key(0), dds.results.Draws(samples, log_w), 1000)[:, 0]
    np.testing.assert_allclose(np.bincount(np.asarray(drawn, int)), [100, 200, 300, 400], atol=1)
    assert np.mean(np.diff(drawn) >= 0) < 0.9  # systematic resampling alone would be in order
    with pytest.raises(ValueError, match="log_weights must be"):
        dds.resample(jax.random.key(0), dds.results.Draws(samples, log_w.at[0].set(jnp.nan)), 10)


@pytest.mark.slow
def test_another_process_draws_the_same_bit_for_bit(result, tmp_path):
    dds.save(tmp_path / "run.npz", result)
    program = """
import sys, jax, jax.numpy as jnp, numpy as np, dds
def log_density(tree):
    return -jnp.sum((tree["a"] - jnp.array([1.0, -2.0])) ** 2) / 2 - tree["b"] ** 2 / 8
result = dds.load(sys.argv[1] + "/run.npz", log_density)
draws = dds.draw(jax.random.key(1), result, 50)
np.savez(sys.argv[1] + "/draws.npz", log_weights=draws.log_weights, **draws.samples)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    here = dds.draw(jax.random.key(1), result, 50)
    with np.load(tmp_path / "draws.npz") as there:
        np.testing.assert_array_equal(here.log_weights, there["log_weights"])
        np.testing.assert_array_equal(here.samples["a"], there["a"])
    loaded = dds.load(tmp_path / "run.npz", log_density)
    assert (loaded.verdict, loaded.report, loaded.evaluations) == (result.verdict, result.report, result.evaluations)
    assert loaded.tried == result.tried
    np.testing.assert_array_equal(loaded.history, result.history)
    with pytest.raises(ValueError, match="dimension of the target must be 3, got 2"):
        dds.load(tmp_path / "run.npz", dds.targets.funnel(2))
    storage.save(tmp_path / "other.npz", jnp.zeros(1))
    with pytest.raises(ValueError, match=r"other\.npz must be a result"):
        dds.load(tmp_path / "other.npz", log_density)


@pytest.mark.slow
def test_a_loaded_result_can_be_trained_further(result, tmp_path):
    dds.save(tmp_path / "run.npz", result)
    loaded = dds.load(tmp_path / "run.npz", log_density)
    runs = [training.resume(r.state, *r.recipe[:3], 5).params for r in (result, loaded)]
    jax.tree.map(np.testing.assert_array_equal, *runs)


@pytest.mark.parametrize("kind", ["neck", "product", "turned product"])
def test_a_plan_with_all_its_arrays_is_kept(tmp_path, kind):
    target, neck = dds.targets.funnel(3), None
    prior = mixtures.product(jax.random.normal(KEY, (50, 3)), 2)
    if kind == "neck":
        neck, _ = conditional.tabulate(target.log_density, normal.standard(3), jnp.eye(3)[:1])
        prior = mixtures.extend(mixtures.of_normal(normal.standard(1)), 3)
    elif kind == "turned product":
        prior = prior._replace(rotation=jnp.roll(jnp.eye(3), 1, axis=0))
    plan = recipes.Plan("importance", "it", recipes.NO_STEPS, normal.standard(3), prior=prior, neck=neck)
    storage.save(tmp_path / "plan.npz", recipes.arrays_of(plan), header=recipes.describe(plan))
    again = recipes.template(storage.read_header(tmp_path / "plan.npz"))
    again = again._replace(**storage.load(tmp_path / "plan.npz", recipes.arrays_of(again)))
    jax.tree.map(np.testing.assert_array_equal, again, plan)
    one, other = (
        paths.sample_path(KEY, recipes.build(each, target).family.sampler(())).x.tolist() for each in (plan, again)
    )
    assert one == other


@pytest.mark.slow
def test_a_recipe_of_ones_own(tmp_path):
    def flat(x):
        return -jnp.sum(x**2) / 2

    def loss(sampler, key):
        return losses.reverse_kl(sampler, key, log_density=flat, paths=16)

    family = families.learned(flat, jnp.full(3, 0.4), 2, width=4)
    own = recipes.Recipe(family, loss, optax.adam(1e-3), 5, "it is mine")
    result = dds.sample(jax.random.key(0), flat, 2, paths=50, recipe=own)
    assert result.log_z.value == pytest.approx(np.log(2 * np.pi), abs=0.05)
    dds.save(tmp_path / "own.npz", result)
    with pytest.raises(ValueError, match="recipe must be given, for that of the file was one of your own"):
        dds.load(tmp_path / "own.npz", flat)
    loaded = dds.load(tmp_path / "own.npz", flat, recipe=own)
    np.testing.assert_array_equal(loaded.log_weights, result.log_weights)


@pytest.mark.slow
def test_progress_is_shown(capsys):
    target = dds.targets.gaussian(jnp.zeros(2), jnp.eye(2))
    dds.sample(jax.random.key(0), target, paths=50, recipe=small(target), progress=dds.progress.lines)
    printed = capsys.readouterr().out
    assert "30 updates, 2,880 evaluations of the density" in printed
    assert "update 30 of 30: ELBO" in printed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key, f: dds.sample(key, f), "like must be the dimension of a point, or an example PyTree"),
        (lambda key, f: dds.sample(key, dds.targets.funnel(2), 2), "like must be left out"),
        (lambda key, f: dds.sample(key, f, 0), "like must be a dimension of at least 1"),
        (lambda key, f: dds.sample(key, f, {"n": 3}), "like must be a dimension, or an example PyTree of floating"),
        (lambda key, f: dds.sample(key, f, 2, paths=10), "paths must be at least 25, got 10"),
        (lambda key, f: dds.sample(key, lambda x: -(x[0] ** 2), 2), "zero at all of 64 points in coordinate 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_spent(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0), lambda x: -jnp.sum(x**2))


@pytest.mark.slow
def test_choices():
    normal_target = dds.targets.gaussian(jnp.zeros(3), jnp.eye(3))
    assert small(normal_target).plan.kind == "gates"
    assert small(dds.targets.funnel(3)).plan.kind == "network"
    ring = 4 * jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    modes = dds.targets.gaussian_mixture(ring, jnp.full(4, 0.5))._replace(
        start=normal.Normal(jnp.zeros(2), jnp.array(3.0))
    )
    recipe = small(modes)
    assert (recipe.plan.kind, recipe.bound) == ("modes", "EUBO")
    assert "modes" in recipe.why
    plain = small(modes, kernel="dds").plan
    assert (plain.kind, plain.evaluations) == ("dds", 0)


def test_posterior_of_prior_and_likelihood_is_looked_for_where_the_prior_is():
    target = dds.targets.from_prior(
        lambda x: -0.5 * jnp.sum(((x - 5) / 3) ** 2) - 2 * jnp.log(3 * jnp.sqrt(2 * jnp.pi)),
        lambda x: -0.5 * jnp.sum((x - 6) ** 2),
        2,
        sample_prior=lambda key: 5 + 3 * jax.random.normal(key, (2,)),
    )
    np.testing.assert_allclose(target.start.mean, 5, atol=0.5)
    np.testing.assert_allclose(target.start.scale, 3, rtol=0.1)


def test_numpyro_samples_come_back_constrained_by_site():
    numpyro = pytest.importorskip("numpyro")
    from numpyro import distributions as dist

    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 3.0))
        numpyro.deterministic("double", 2 * mean)
        numpyro.sample("y", dist.Normal(mean, scale), obs=y)

    target = dds.from_numpyro(model, jnp.array([1.0, 2.0, 4.0]))
    samples = jax.vmap(target.structure)(jax.random.normal(jax.random.key(0), (5, 2)))
    assert np.all(samples["scale"] > 0)
    np.testing.assert_allclose(samples["double"], 2 * samples["mean"])


@pytest.mark.slow
def test_modes_are_asked_by_several_paths_of_a_sampler_with_steps(result, monkeypatch):
    asked = []

    def uncovered(log_density, weigh, log_z, found, **options):
        asked.append(options["paths"])
        return exploration.Uncovered(np.zeros(len(found.points)), 5, 7)

    monkeypatch.setattr(exploration, "uncovered", uncovered)
    explored = exploration.Explored(jnp.zeros((0, 3)), None, modes.none(3), 0)
    without_steps = families.importance(normal.standard(3)).sampler({})
    nothing, never = np.full(2, -np.inf, np.float32), max  # of no weight, and not called
    for sampler in (result.sampler, without_steps):
        arguments = result.target, sampler, never, explored, np.zeros((2, 3)), nothing, None, -np.inf
        _, evaluations = results._check(KEY, *arguments)
        assert evaluations == 5 + 7 * (paths.steps(sampler) + 2)  # a weight takes the density at every step
    assert asked == [exploration.PATHS, 1]


@pytest.mark.slow
def test_a_sampler_of_one_of_two_modes_is_found_out_both_ways():
    # Draws from one mode of two have perfect weights; exact samples and tempered particles both say what is missing.
    means = jnp.array([[-5.0, 0.0], [5.0, 0.0]])
    mixture = dds.targets.gaussian_mixture(means, jnp.ones(2))
    target = mixture._replace(start=normal.Normal(jnp.zeros(2), jnp.array(6.0)))
    family = families.importance(normal.Normal(means[0], jnp.ones(())))

    def loss(sampler, key):
        return losses.reverse_kl(sampler, key, log_density=target.log_density, paths=4)

    recipe = recipes.Recipe(family, loss, optax.sgd(1.0), 1, "draws from one mode")
    result = dds.sample(jax.random.key(0), target, paths=400, recipe=recipe)
    assert result.log_z.value == pytest.approx(np.log(0.5), abs=1e-3)
    assert result.report.ess > 0.99
    assert result.report.forward_ess < 1e-3
    assert result.report.missed_mass == pytest.approx(0.5, abs=0.15)
    assert result.report.missed_exact == pytest.approx(0.5, abs=0.1)
    for words in ("Do not trust", "of exact samples", "found by other means", "farther out than any path"):
        assert words in result.verdict
    # What is known to be missing is a part of the standard error.
    assert result.log_z.standard_error > 0.1


def test_models_are_compared_by_their_evidence():
    def result_of(log_z, error, truth=0.0):
        estimate = dds.estimators.Estimate(jnp.asarray(log_z), jnp.asarray(error))
        report = evaluation.summarise(np.zeros(1000, np.float32), log_z_true=truth)
        return dds.Result(*[None] * len(dds.Result._fields))._replace(log_z=estimate, report=report)

    models = {"a": result_of(-2.0, 0.03), "b": result_of(1.0, 0.04), "c": result_of(0.0, 0.0, truth=1.0)}
    best, second, last = dds.compare(models)
    assert [model.name for model in (best, second, last)] == ["b", "c", "a"]
    assert [model.trusted for model in (best, second, last)] == [True, False, True]
    assert (best.log_bayes_factor, best.log_bayes_factor_standard_error) == (0, 0)
    assert last.log_bayes_factor == pytest.approx(-3)
    assert last.log_bayes_factor_standard_error == pytest.approx(0.05)
    weights = np.exp([1.0, 0.0, -2.0])
    np.testing.assert_allclose([m.probability for m in (best, second, last)], weights / weights.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="results must be one or more, got none"):
        dds.compare({})


@pytest.mark.slow
def test_where_mass_lies_farther_out_is_said():
    def log_density(x):
        return jax.scipy.stats.norm.logpdf(x[0]) + jax.scipy.stats.cauchy.logpdf(x[1])

    target = dds.targets.from_log_density(log_density, 2)
    place = normal.Normal(jnp.zeros(2), jnp.array([1.0, 4.0]))
    plan = recipes.Plan("importance", "an example", recipes.NO_STEPS, place)
    recipe = recipes.build(plan, target)
    explored = exploration.explore(jax.random.key(0), log_density, choices.starting_point(target))
    explored = explored._replace(settled=False)  # so that only the stretched samples can say it
    fit = training.fit(jax.random.key(1), *recipe[:4])
    report = results.evaluate(jax.random.key(2), target, recipe, fit, paths=4000, explored=explored).report
    assert report.missed_tails > trust.MISSED_TAILS
    assert report.where.startswith("at coordinate 1 about")
