"""Losses over paths of any origin, potentials on the way, the replay buffer, and resampling along the path."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    LOG_Z,
    MIXTURE,
    PLACE,
    SAMPLERS,
    SHIFTED,
    log_weights,
    normal_target,
    perturbed,
    shifted_normal_density,
)

from dds import (
    estimators,
    families,
    kernels,
    losses,
    networks,
    normal,
    origins,
    paths,
    references,
    replay,
    resampling,
    schedules,
    storage,
    targets,
    training,
)
from dds.types import Normal, Potentials, Sampler

NAMES = list(SAMPLERS)
WITH_STEPS = [name for name in NAMES if name != "importance"]
BALANCES = [losses.log_variance, losses.trajectory_balance, losses.sub_trajectory_balance]


def with_potentials(name, log_density=SHIFTED.log_density, place=PLACE, size=0.04):
    place = jax.tree.map(lambda x: x.astype(float), place)  # of the precision of the test
    family = families.with_potentials(SAMPLERS[name](log_density, place), log_density)
    return family, perturbed(family, size=size)


def exact(dim=3, steps=5, log_z=2.0):
    """A normal target whose kernels are exact, with the exact potentials: nothing in it is guessed."""
    mean, covariance = normal_target(dim)
    mean, covariance = mean.astype(float), covariance.astype(float)
    fractions = schedules.linear(steps, total=1.5)
    marginals = [kernels.gaussian_marginal(fractions, mean, covariance, k) for k in range(steps + 1)]
    inner = jax.tree.map(lambda *leaves: jnp.stack(leaves), *marginals[1:-1])
    standard = normal.standard(dim)

    def apply(y, marginal):
        return normal.log_density(marginal, y) - normal.log_density(standard, y) + log_z

    potentials = Potentials(jnp.asarray(log_z), inner, apply)
    kernel = kernels.gaussian(fractions, mean, covariance)
    sampler = Sampler(marginals[0], references.ou(fractions, dim), kernel, standard, potentials)
    return sampler, shifted_normal_density(mean, covariance, log_z)


@pytest.mark.slow
def test_all_is_the_normalising_constant_where_all_is_exact(precision):
    sampler, log_density = exact()
    path = jax.jit(lambda key: paths.sample_path(key, sampler))(jax.random.key(0))
    along = losses.log_weights_along(path, sampler, log_density)
    np.testing.assert_allclose(along, 2.0, atol=2e-5 if precision == "float32" else 1e-11)
    resampled = resampling.along_path(jax.random.key(2), sampler, log_density, 10, ess_threshold=1.0)
    np.testing.assert_allclose(resampled.log_weights, 2.0, atol=2e-5 if precision == "float32" else 1e-11)

    @jax.jit
    def values(key):
        all_origins = origins.own, origins.exploring(2.0), origins.noised(jnp.ones((1, 3)))
        options = {"log_density": log_density, "paths": 4}
        return [loss(sampler, key, origin=origin, **options) for loss in BALANCES for origin in all_origins]

    # Whatever the paths, and never below zero.
    assert all(0 <= value < (1e-8 if precision == "float32" else 1e-20) for value in values(jax.random.key(1)))


@pytest.mark.parametrize("name", ["underdamped", "cmcd"])
def test_potentials_are_those_of_the_annealed_target(float64, name):
    family, params = with_potentials(name)
    sampler = family.sampler(params)
    path = jax.jit(lambda key: paths.sample_path(key, sampler))(jax.random.key(0))
    along = losses.log_weights_along(path, sampler, SHIFTED.log_density)
    assert along.shape == (paths.steps(sampler) + 1,)
    assert along[0] == params["log_z"] != 0
    assert along[-1] == losses.log_weight(path, SHIFTED.log_density)
    betas = np.cumsum(np.exp(params["temperatures"]) / np.exp(params["temperatures"]).sum())
    jacobian = np.linalg.slogdet(np.asarray(sampler.coordinates.scale))[1]
    for k in range(1, paths.steps(sampler)):
        y = path.states[k]
        x = normal.reparameterise(sampler.coordinates, y[:2])
        log_ratio = SHIFTED.log_density(x) + jacobian - normal.log_density(normal.standard(2), y[:2])
        weight = params["offsets"][k - 1] + betas[k - 1] * log_ratio
        weight += jnp.sum((path.log_backward - path.log_forward)[:k])
        assert along[k] == pytest.approx(float(weight), rel=1e-9)


@pytest.mark.parametrize("name", ["cmcd", "importance"])
def test_a_guess_of_log_z_and_potentials_change_no_path_and_no_weight(name):
    family, params = with_potentials(name)
    plain = SAMPLERS[name](SHIFTED.log_density, PLACE)
    both = [
        jax.jit(lambda key, sampler=sampler: paths.sample_path(key, sampler))(jax.random.key(3))
        for sampler in (family.sampler(params), plain.sampler(params["sampler"]))
    ]
    for one, other in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_array_equal(one, other)


def test_trajectory_balance_is_the_mean_square_and_log_variance_the_variance(float64):
    family, params = with_potentials("learned")
    sampler = family.sampler(params)
    log_w = jax.jit(lambda key: losses.log_weights(sampler, key, SHIFTED.log_density, 50))(jax.random.key(1))

    @jax.jit
    def both(key):
        options = {"log_density": SHIFTED.log_density, "paths": 50}
        return [loss(sampler, key, **options) for loss in BALANCES[:2]]

    variance, balance = both(jax.random.key(1))
    assert balance == pytest.approx(float(jnp.mean((log_w - params["log_z"]) ** 2)), rel=1e-8)
    assert variance == pytest.approx(float(jnp.var(log_w, ddof=1)), rel=1e-8)


def test_sub_trajectory_balance_is_its_double_sum(float64):
    family, params = with_potentials("cmcd")
    sampler, key, decay, total = family.sampler(params), jax.random.key(1), 0.7, 0.0
    options = {"log_density": SHIFTED.log_density, "paths": 5, "decay": decay}

    @jax.jit
    def both(key):
        retraced = jax.vmap(lambda states: paths.retrace(states, sampler))(origins.own(sampler, key, 5))
        along = jax.vmap(lambda path: losses.log_weights_along(path, sampler, SHIFTED.log_density))(retraced)
        return along, losses.sub_trajectory_balance(sampler, key, **options)

    along, loss = both(key)
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    weights = np.array([decay ** (j - i) for i, j in pairs])
    for a in np.asarray(along):
        total += weights @ np.array([(a[j] - a[i]) ** 2 for i, j in pairs]) / weights.sum() / 5
    assert loss == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("loss", BALANCES[1:])
@pytest.mark.parametrize("name", ["cmcd", "learned"])
def test_gradient_of_balance_is_that_of_constant_states(float64, loss, name):
    # Against finite differences of the parameters at states that do not move with them.
    family, params = with_potentials(name)
    flat, unravel = ravel_pytree(params)
    states = origins.own(family.sampler(params), jax.random.key(1), 4)
    options = {"log_density": SHIFTED.log_density, "paths": 4}

    def value(flat, origin):
        return loss(family.sampler(unravel(flat)), jax.random.key(1), origin=origin, **options)

    constant = jax.jit(lambda flat: value(flat, lambda *_: states))
    direction, step = jax.random.normal(jax.random.key(2), flat.shape), 1e-5
    slope = jax.jit(jax.grad(lambda flat: value(flat, origins.own)))(flat) @ direction
    up, down = (constant(flat + sign * step * direction) for sign in (1, -1))
    assert slope == pytest.approx(float((up - down) / (2 * step)), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dds", "underdamped", "pis"])
def test_half_the_gradient_of_log_variance_is_that_of_the_reverse_kl(name):
    plain = SAMPLERS[name](SHIFTED.log_density, PLACE)
    params, options = perturbed(plain), {"log_density": SHIFTED.log_density, "paths": 20}

    def gradients(loss, keys):
        def one(key):
            return ravel_pytree(jax.grad(lambda params: loss(plain.sampler(params), key, **options))(params))[0]

        return np.asarray(jax.jit(jax.vmap(one))(keys), float)

    reverse = gradients(losses.reverse_kl, jax.random.split(jax.random.key(1), 400))
    half = gradients(losses.log_variance, jax.random.split(jax.random.key(2), 400)) / 2
    error = np.sqrt((reverse.var(axis=0) + half.var(axis=0)) / 400)
    assert np.all(np.abs(reverse.mean(axis=0) - half.mean(axis=0)) < 6 * error + 1e-6)
    assert np.abs(reverse.mean(axis=0)).max() > 6 * error.max()  # not both zero


def test_balance_leaves_out_paths_of_weight_zero():
    family, params = with_potentials("cmcd")

    def bounded(x):
        return jnp.where(x[0] > 0, SHIFTED.log_density(x), -jnp.inf)

    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(loss, params):
        options = {"log_density": bounded, "paths": 20}
        return jax.value_and_grad(lambda params: loss(family.sampler(params), jax.random.key(0), **options))(params)

    for loss in BALANCES[1:]:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value_and_gradient(loss, params)))


def test_origins():
    family, params = with_potentials("dds")
    sampler = family.sampler(params)

    @partial(jax.jit, static_argnums=0)
    def states_of(origin, key):
        return origin(sampler, key, 100)

    own = states_of(origins.own, jax.random.key(0))
    assert own.shape == (100, 7, 2)
    # Exploring by a factor of one is the sampler itself; by two, the first step has twice the noise.
    np.testing.assert_allclose(states_of(origins.exploring(1.0), jax.random.key(0)), own, atol=1e-6)
    wide = states_of(origins.exploring(2.0), jax.random.key(0))
    np.testing.assert_array_equal(wide[:, 0], own[:, 0])
    b = float(sampler.reference.rows[0])

    def noise(states):
        mean = jax.vmap(lambda y: sampler.kernel.apply(y, jax.tree.map(lambda row: row[0], sampler.kernel.rows)))
        return (states[:, 1] - np.sqrt(1 - b) * states[:, 0]) / np.sqrt(b) - mean(states[:, 0]).forward.mean

    np.testing.assert_allclose(noise(wide), 2 * noise(own), atol=1e-4)
    # Noised paths end in the points; a mixture has its share of each, the first first.
    points = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    noised = origins.noised(points)
    for origin, share in ((noised, 1.0), (origins.mixed(0.3, noised, origins.own), 0.3)):
        states = states_of(origin, jax.random.key(1))
        ends = np.asarray(jax.vmap(partial(normal.reparameterise, sampler.coordinates))(states[:, -1]))
        of_points = (np.abs(ends[:, None] - np.asarray(points)) < 1e-4).all(axis=2).any(axis=1)
        assert of_points.tolist() == [i < 100 * share for i in range(100)]


def test_a_buffer_overwrites_the_oldest_and_chooses_by_weight():
    log_w = jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0]))
    buffer = replay.Buffer(jnp.arange(4.0)[:, None], log_w, jnp.asarray(4))
    for power in (0.0, 1.0, 2.0):
        chosen = np.asarray(replay.choose(jax.random.key(0), buffer, 20_000, power=power)).ravel().astype(int)
        shares = np.array([1.0, 2.0, 3.0, 4.0]) ** power
        shares /= shares.sum()
        error = np.sqrt(shares * (1 - shares) / 20_000)
        assert np.all(np.abs(np.bincount(chosen, minlength=4) / 20_000 - shares) < 5 * error)
    more = replay.add(buffer, jnp.array([[7.0], [8.0], [9.0]]), jnp.array([0.0, -jnp.inf, jnp.nan]))
    assert more.points.ravel().tolist() == [7.0, 8.0, 9.0, 3.0]
    again = replay.add(more, jnp.array([[5.0], [6.0]]), jnp.zeros(2))
    assert again.points.ravel().tolist() == [6.0, 8.0, 9.0, 5.0]
    assert set(np.unique(replay.choose(jax.random.key(1), more, 500))) == {3.0, 7.0}  # none whose weight is not finite


@pytest.mark.slow
def test_weights_in_a_buffer_are_those_of_its_points():
    # Chosen in proportion to its weights, points of a poor sampler are like draws of the target.
    family = families.importance(Normal(jnp.zeros(2), jnp.array(3.0)))
    sampler = family.sampler(family.init(jax.random.key(0)))
    buffer = replay.start(jax.random.key(1), sampler, SHIFTED.log_density, 20_000)
    points = np.asarray(replay.choose(jax.random.key(2), buffer, 20_000))
    samples = np.asarray(jax.vmap(MIXTURE.sample)(jax.random.split(jax.random.key(3), 20_000)))
    ess = float(estimators.effective_sample_size(buffer.log_weights))
    error = samples.std(axis=0) * np.sqrt((1 / ess + 2) / 20_000)
    assert np.all(np.abs(points.mean(axis=0) - samples.mean(axis=0)) < 5 * error)
    assert estimators.log_z(buffer.log_weights).value == pytest.approx(LOG_Z, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0.5, 2.0])
def test_langevin_moves_leave_the_target_as_it_is(float64, step):
    # So long a step is refused most of the time: without that the points would be spread too wide.
    points = jax.vmap(MIXTURE.sample)(jax.random.split(jax.random.key(0), 40_000)).astype(float)
    moved = np.asarray(jax.jit(replay.langevin(MIXTURE.log_density, moves=5, step=step))(jax.random.key(1), points))
    stayed = np.mean(np.all(moved == np.asarray(points), axis=1))
    assert stayed < 0.02 if step == 0.5 else 0.02 < stayed < 0.9
    for power in (1, 2, 3):
        before, after = np.asarray(points) ** power, moved**power
        error = np.sqrt((before.var(axis=0) + after.var(axis=0)) / 40_000)
        assert np.all(np.abs(after.mean(axis=0) - before.mean(axis=0)) < 5 * error)


def test_langevin_moves_do_not_leave_the_support():
    def half(x):
        return jnp.where(x[0] > 0, -0.5 * x[0] ** 2, jnp.nan)

    points = jnp.linspace(0.01, 0.1, 1000)[:, None]
    moved = jax.jit(replay.langevin(half, moves=30, step=1.0))(jax.random.key(0), points)
    assert np.all(moved > 0)
    assert np.mean(moved) == pytest.approx(np.sqrt(2 / np.pi), abs=5 * 0.6 / np.sqrt(1000))
    for argument, message in (({"moves": 0}, "moves must be"), ({"step": 0.0}, "step must be positive and finite")):
        with pytest.raises(ValueError, match=message):
            replay.langevin(half, **({"moves": 1, "step": 1.0} | argument))


@pytest.mark.slow
def test_points_of_a_buffer_are_moved_before_they_are_noised():
    family, params = with_potentials("dds")
    sampler, ends = family.sampler(params), []
    buffer = replay.start(jax.random.key(1), sampler, SHIFTED.log_density, 32)

    def loss(sampler, key, *, log_density, paths, origin):
        ends.append(jax.vmap(partial(normal.reparameterise, sampler.coordinates))(origin()[-8:, -1]))
        return jnp.zeros(())

    for shift in (None, lambda key, points: points + 100):
        both = replay.replayed(loss, log_density=SHIFTED.log_density, paths=16, move=shift)
        both(sampler, jax.random.key(2), buffer)
    np.testing.assert_allclose(ends[1], ends[0] + 100, rtol=1e-5)


def replayed_training(updates, **options):
    family = families.with_potentials(SAMPLERS["dds"](SHIFTED.log_density, PLACE), SHIFTED.log_density)
    first = family.sampler(family.init(jax.random.key(0)))
    buffer = replay.start(jax.random.key(1), first, SHIFTED.log_density, 64)
    loss = replay.replayed(losses.trajectory_balance, log_density=SHIFTED.log_density, paths=16)
    optimiser = optax.adam(1e-2)
    return (
        family,
        loss,
        optimiser,
        training.fit(jax.random.key(2), family, loss, optimiser, updates, memory=buffer, block=10, **options),
    )


@pytest.mark.slow
def test_training_with_a_buffer_resumes_bit_for_bit(tmp_path):
    family, loss, optimiser, whole = replayed_training(20)
    half = replayed_training(10)[-1]
    storage.save(tmp_path / "state.npz", half.state)
    memory = jax.tree.map(jnp.zeros_like, half.state.memory)
    template = training.start(jax.random.key(0), family, optimiser, memory=memory)
    rest = training.resume(storage.load(tmp_path / "state.npz", template), family, loss, optimiser, 10, block=10)
    for one, other in zip(*(jax.tree.leaves(run.state._replace(key=0)) for run in (whole, rest)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(whole.state.memory.added) == 64 + 20 * 8
    assert whole.losses[-5:].mean() < whole.losses[:5].mean()


def test_a_memory_that_changes_its_shape_is_refused():
    family = families.importance(normal.standard(2))
    with pytest.raises(ValueError, match=r"the memory that loss returns must be .*got"):
        training.fit(
            jax.random.key(0),
            family,
            lambda sampler, key, memory: (jnp.zeros(()), memory[:1]),
            optax.sgd(0.1),
            1,
            memory=jnp.zeros(3),
        )


@pytest.mark.slow
def test_what_has_no_gradient_is_trained_by_losses_that_need_none():
    def likelihood(x):
        return np.asarray(-0.5 * np.sum((x - 1.5) ** 2, axis=-1), np.float32)

    def log_density(x):
        return jax.pure_callback(likelihood, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="expand_dims")

    network = networks.mlp(2, jnp.zeros_like, width=16)
    plain = families.dds(network, schedules.cosine(8, total=3.0), Normal(jnp.zeros(2), jnp.array(1.5)))
    family = families.with_potentials(plain, log_density)
    loss = partial(losses.trajectory_balance, log_density=log_density, paths=64)
    run = training.fit(jax.random.key(0), family, loss, optax.adam(1e-2), 300)
    assert run.losses[-20:].mean() < 0.1 * run.losses[:20].mean()
    sampler = family.sampler(run.params)
    log_w = jax.jit(lambda key: losses.log_weights(sampler, key, log_density, 4000))(jax.random.key(1))
    estimate = estimators.log_z(log_w)
    assert abs(estimate.value - jnp.log(2 * jnp.pi)) < 6 * estimate.standard_error < 0.1
    needs_one = partial(losses.reverse_kl, log_density=log_density, paths=64)
    with pytest.raises(ValueError, match=r"loss cannot be differentiated \(if it is the density, use a loss that"):
        training.fit(jax.random.key(0), family, needs_one, optax.adam(1e-2), 300)
    assert run.params["log_z"] == pytest.approx(np.log(2 * np.pi), abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_STEPS)
@pytest.mark.parametrize("threshold", [0.0, 0.99])
def test_resampling_along_the_path_keeps_the_normalising_constant(name, threshold):
    family, params = with_potentials(name)
    sampler = family.sampler(params)

    @jax.jit
    @jax.vmap
    def run(key):
        return resampling.along_path(key, sampler, SHIFTED.log_density, 200, ess_threshold=threshold)

    along = run(jax.random.split(jax.random.key(0), 200))
    estimates, resampled = along.log_z.value, along.resampled
    estimate, claimed = estimators.log_z(estimates), np.sqrt(np.mean(np.square(along.log_z.standard_error)))
    assert 0.85 < claimed / np.std(estimates) < 2  # it is too large where there was resampling
    assert abs(jnp.expm1(estimate.value - LOG_Z)) < 6 * estimate.standard_error < 0.1
    assert (resampled == 0).all() if threshold == 0 else (resampled >= 1).all()


def test_paths_that_leave_the_support_on_the_way_can_come_back():
    # The half of a normal distribution: half of the paths start outside of it, where the potential is minus infinity.
    def half(x):
        return jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), -jnp.inf)

    plain = families.cmcd(networks.mlp(1, jnp.zeros_like), jnp.full(12, 0.2), half, normal.standard(1))
    family = families.with_potentials(plain, half)
    sampler = family.sampler(family.init(jax.random.key(0)))
    for threshold in (0.0, 0.9):
        along = resampling.along_path(jax.random.key(0), sampler, half, 4000, ess_threshold=threshold)
        assert (along.points[jnp.isfinite(along.log_weights)] > 0).all()
        assert (along.resampled == 0) == (threshold == 0)
        assert abs(along.log_z.value - 0.5 * jnp.log(jnp.pi / 2)) < 5 * along.log_z.standard_error < 0.3


def test_a_path_that_is_not_a_number_spoils_no_other():
    # No control, but not a number beyond one: such a path has weight zero, whatever it does afterwards.
    fractions = jnp.full(6, 0.2)
    reference = references.ou(fractions, 1)
    kernel = kernels.denoising(fractions, lambda y, k: jnp.where(y > 1, jnp.nan, 0))
    potentials = Potentials(jnp.zeros(()), jnp.arange(5.0), lambda y, k: -jnp.sum(y**2) / 4)
    sampler = Sampler(reference.start, reference, kernel, normal.standard(1), potentials)
    density = partial(normal.log_density, normal.standard(1))
    along = resampling.along_path(jax.random.key(0), sampler, density, 4000, ess_threshold=0.9)
    plain = log_weights(jax.random.key(1), sampler, density, 4000)
    share = float(jnp.isfinite(plain).mean())  # of the paths that stay below one, which have weight one
    assert 0.3 < share < 0.8
    assert along.resampled > 0
    assert np.isfinite(along.points[jnp.isfinite(along.log_weights)]).all()
    assert abs(jnp.exp(along.log_z.value) - share) < 0.05


def test_langevin_steps_are_bounded_where_the_density_is_steep():
    target, place = targets.many_well(32), Normal(jnp.zeros(32), jnp.array(2.0))

    def finite(**options):
        network, fractions = networks.mlp(32, jnp.zeros_like, width=4), schedules.constant(64, total=6.0)
        family = families.cmcd(network, fractions, target.log_density, place, **options)
        sampler = family.sampler(family.init(jax.random.key(0)))
        return jnp.isfinite(log_weights(jax.random.key(1), sampler, target.log_density, 100)).mean()

    assert finite() == 1
    assert finite(score_clip=None) < 0.5
    with pytest.raises(ValueError, match="score_clip must be positive or None"):
        finite(score_clip=0.0)


def test_without_resampling_it_is_importance_sampling():
    family, params = with_potentials("cmcd")
    along = resampling.along_path(
        jax.random.key(0), family.sampler(params), SHIFTED.log_density, 5000, ess_threshold=0.0
    )
    plain = estimators.log_z(along.log_weights)
    assert along.resampled == 0
    assert along.log_z.value == plain.value
    assert along.log_z.standard_error == pytest.approx(float(plain.standard_error), rel=1e-2)
    assert abs(along.log_z.value - LOG_Z) < 6 * plain.standard_error


@pytest.mark.parametrize("name", [name for name in WITH_STEPS if name != "mixture"])
def test_what_the_noise_of_a_step_does_to_the_end_is_linear(float64, name):
    family, params = with_potentials(name)
    sampler = family.sampler(params)
    reference, steps = sampler.reference, paths.steps(sampler)
    size = reference.start.mean.size
    noise, covector = jax.random.normal(jax.random.key(0), (steps, 2)), jax.random.normal(jax.random.key(1), (size,))

    def end(y, noise):
        return jax.lax.scan(lambda y, inputs: (reference.ahead(y, *inputs)[0], None), y, (noise, reference.rows))[0]

    y = jnp.linspace(-1, 1, size)
    moved = covector @ (end(y, noise) - end(y, jnp.zeros_like(noise)))
    assert jnp.sum(paths.pull_back(sampler, covector) * noise) == pytest.approx(float(moved), rel=1e-9)


@pytest.mark.slow
def test_the_mean_adjoint_is_that_of_the_exact_kernel(float64):
    # The innovations of the exact reversal have a mean that is linear in the state: so is what regression gives.
    sampler, _ = exact(dim=2)
    mean, covariance = normal_target(2)
    target = targets.gaussian(mean.astype(float), covariance.astype(float))
    points = jax.vmap(target.sample)(jax.random.split(jax.random.key(0), 40_000))
    states = origins.back_from(sampler, jax.random.key(1), points)
    score = jax.grad(lambda y: paths.end_potential(sampler, y, target.log_density))
    adjoints = np.asarray(jax.jit(jax.vmap(lambda y: paths.pull_back(sampler, score(y))))(states[:, -1]))
    for k in range(paths.steps(sampler)):
        row = jax.tree.map(lambda rows, k=k: rows[k], sampler.kernel.rows)
        means = jax.vmap(lambda y, row=row: sampler.kernel.apply(y, row).forward.mean)(states[:, k])
        regressors = np.concatenate([np.ones((len(points), 1)), states[:, k]], axis=1)
        residuals = adjoints[:, k] - np.asarray(means)
        slopes = np.linalg.lstsq(regressors, residuals, rcond=None)[0]
        inverse = np.linalg.inv(regressors.T @ regressors)
        errors = np.sqrt(np.outer(np.diag(inverse), np.var(residuals, axis=0)))
        assert np.all(np.abs(slopes) < 5 * errors)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dds", "pis", "underdamped"])
def test_adjoint_matching_recovers_a_normal_target(name):
    target = targets.gaussian(jnp.array([1.0, -0.5]), jnp.diag(jnp.array([0.5, 1.5])))
    networks_of = {
        "dds": lambda net: families.dds(net, schedules.constant(8, total=3.0), normal.standard(2)),
        "pis": lambda net: families.pis(net, 8, normal.standard(2)),
        "underdamped": lambda net: families.underdamped(net, jnp.full(8, 0.6), jnp.full(8, 0.6), normal.standard(2)),
    }
    # The density is asked where paths end, and nowhere else.
    network = networks.mlp(2, lambda y: jnp.zeros(2), inputs=4 if name == "underdamped" else None, width=16)
    family = networks_of[name](network)
    loss = partial(losses.adjoint_matching, log_density=target.log_density, paths=128)
    run = training.fit(jax.random.key(0), family, loss, optax.adam(1e-2), 300)
    before, after = (
        estimators.effective_sample_size(
            log_weights(jax.random.key(1), family.sampler(params), target.log_density, 2000)
        )
        for params in (family.init(jax.random.key(0)), run.params)
    )
    assert after > 0.8 > 0.5 > before


def test_the_score_of_adjoint_matching_is_bounded_where_that_is_asked():
    family, params = with_potentials("dds")
    sampler = family.sampler(params)

    def steep(x):
        return jnp.where(x[0] > 0, -1e20 * x[0], 0.0) + SHIFTED.log_density(x)

    @jax.jit
    def values(key):
        options = {"log_density": steep, "paths": 8, "origin": origins.noised(jnp.ones((1, 2)))}
        return [losses.adjoint_matching(sampler, key, score_clip=clip, **options) for clip in (None, 10.0)]

    unbounded, bounded = values(jax.random.key(0))
    assert unbounded == 0  # of no path is it finite
    assert 0 < bounded < 2 * paths.steps(sampler) * 11**2


def test_adjoint_matching_drops_paths_that_end_where_there_is_no_gradient():
    family, params = with_potentials("dds")
    back = origins.back_from(family.sampler(params), jax.random.key(0), jnp.array([[1.0, 1.0], [-1.0, 1.0]]))

    def half(x):
        return SHIFTED.log_density(x) + jnp.sqrt(x[0])

    @jax.jit
    def gradient(params, states):
        def loss(params):
            options = {"log_density": half, "paths": 1, "origin": lambda *_: states}
            return losses.adjoint_matching(family.sampler(params), jax.random.key(0), **options)

        return ravel_pytree(jax.grad(loss)(params))[0]

    both, whole = gradient(params, back), gradient(params, back[:1])
    assert jnp.any(whole != 0)
    np.testing.assert_allclose(both, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [("cmcd", "the noising process of the sampler must be that of the"), ("importance", "the number of steps of the")],
)
def test_adjoint_matching_refuses_what_it_is_not_for(name, message):
    family = SAMPLERS[name](SHIFTED.log_density, PLACE)
    sampler = family.sampler(family.init(jax.random.key(0)))
    loss = partial(losses.adjoint_matching, sampler, log_density=SHIFTED.log_density, paths=4)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(loss, jax.random.key(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: losses.trajectory_balance(s, jax.random.key(0), log_density=jnp.sum, paths=2), "the potentials of"),
        (lambda s: resampling.along_path(jax.random.key(0), s, jnp.sum, 10), "the potentials of the sampler must be"),
        (lambda s: origins.exploring(0.0), "factor must be positive"),
        (lambda s: origins.mixed(1.5, origins.own, origins.own), r"share must be in \[0, 1\]"),
        (
            lambda s: replay.choose(jax.random.key(0), replay.start(jax.random.key(0), s, jnp.sum, 3), 2, power=-1.0),
            "power",
        ),
        (lambda s: replay.replayed(losses.log_variance, log_density=jnp.sum, paths=4, share=1.0), "share must be such"),
    ],
)
def test_bad_arguments_are_named(call, message):
    family = SAMPLERS["dds"](SHIFTED.log_density, PLACE)
    with pytest.raises(ValueError, match=message):
        call(family.sampler(family.init(jax.random.key(0))))
