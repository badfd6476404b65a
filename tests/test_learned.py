"""The learned process: the same identity, with kernels in both directions."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dds import estimators, learned, losses, normal, sampler, schedules
from dds.targets import funnel, gaussian, gaussian_mixture
from dds.types import Target

MIXTURE = gaussian_mixture(jnp.array([[-1.0, 0.5], [1.0, -0.3]]), jnp.array([0.8, 1.1]), jnp.array([1.0, 2.0]))
LOG_Z = 5.5
SHIFTED = Target(2, lambda x: MIXTURE.log_density(x) + LOG_Z, MIXTURE.sample, LOG_Z)


def random_parameters(seed=0, dim=2, steps=6, size=0.05):
    """Parameters drawn at random: also those that start at zero."""
    params = learned.init(jax.random.key(seed), schedules.linear(steps, total=min(2.0, 0.6 * steps)), dim, width=8)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return unravel(flat + size * jax.random.normal(jax.random.key(seed + 1), flat.shape))


def laws_at(law, z, k):
    return law.kernel.apply(z, jax.tree.map(lambda row: row[k], law.kernel.rows))


def log_weight(params, target, key, freeze_laws=False):
    law, moved = learned.sampler(params, target)
    path = sampler.sample_path(key, law, freeze_laws=freeze_laws)
    return losses.log_weight(path, law.reference, moved.log_density)


@pytest.mark.parametrize("seed", range(2))
def test_mean_weight_is_the_normalising_constant(seed):
    params = random_parameters(seed)
    weights = jax.jit(jax.vmap(lambda key: log_weight(params, SHIFTED, key)))
    log_w = weights(jax.random.split(jax.random.key(100 + seed), 20_000))
    assert 0.02 < estimators.effective_sample_size(log_w) < 0.9  # neither fooled by heavy tails, nor trivial
    estimate = estimators.log_z(log_w)
    assert abs(jnp.expm1(estimate.value - LOG_Z)) < 6 * estimate.standard_error


def test_mean_inverse_weight_on_noised_samples_is_the_inverse():
    law, moved = learned.sampler(random_parameters(), SHIFTED)

    @jax.jit
    @jax.vmap
    def backward(key):
        sample_key, noise_key = jax.random.split(key)
        path = sampler.retrace(sampler.noise_path(noise_key, law, moved.sample(sample_key)), law)
        return losses.log_weight(path, law.reference, moved.log_density)

    inverse = estimators.log_z(-backward(jax.random.split(jax.random.key(10), 20_000)))
    assert abs(jnp.expm1(inverse.value + LOG_Z)) < 6 * inverse.standard_error


def test_weight_is_the_ratio_of_path_densities(float64):
    # With explicit densities of the states, by SciPy: nothing here knows of innovations or of the reference process.
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), random_parameters())
    law, moved = learned.sampler(params, SHIFTED)
    path = jax.jit(lambda key: sampler.sample_path(key, law))(jax.random.key(3))
    z = np.asarray(path.trajectory.states)
    direct = float(moved.log_density(path.trajectory.states[-1])) - scipy.stats.norm.logpdf(z[0]).sum()
    for k, b in enumerate(np.asarray(law.reference.fractions)):
        ahead, back = (laws_at(law, path.trajectory.states[i], i) for i in (k, k + 1))
        mean = np.sqrt(1 - b) * z[k] + np.sqrt(b) * np.asarray(ahead.denoising.mean)
        direct -= scipy.stats.norm.logpdf(z[k + 1], mean, np.sqrt(b) * np.asarray(ahead.denoising.scale)).sum()
        mean = np.sqrt(1 - b) * z[k + 1] + np.sqrt(b) * np.asarray(back.noising.mean)
        direct += scipy.stats.norm.logpdf(z[k], mean, np.sqrt(b) * np.asarray(back.noising.scale)).sum()
    weight = losses.log_weight(path, law.reference, moved.log_density)
    assert weight == pytest.approx(direct, rel=1e-10)


def test_it_starts_as_the_reference_process():
    target = gaussian(jnp.zeros(3), jnp.eye(3))
    params = learned.init(jax.random.key(0), schedules.constant(8, total=3.0), 3)
    log_w = jax.jit(jax.vmap(lambda key: log_weight(params, target, key)))(jax.random.split(jax.random.key(1), 100))
    np.testing.assert_allclose(log_w, 0, atol=1e-5)


def test_it_starts_with_a_gate_on_the_score_that_rises(float64):
    params = learned.init(jax.random.key(0), schedules.constant(4, total=2.0), 2)
    target = gaussian(jnp.zeros(2), 4.0 * jnp.eye(2))
    law, _ = learned.sampler(params, target)
    z, b = jnp.array([1.0, -2.0]), 0.5
    slope = np.asarray(z - z / 4)
    tamed = slope / (1 + np.sqrt(b) * np.sqrt(np.mean(slope**2)))
    for k in range(5):
        laws = laws_at(law, z, k)
        np.testing.assert_allclose(laws.denoising.mean, np.sqrt(b) * 0.5 ** (1.5 * (4 - k)) * tamed, rtol=1e-6)
        np.testing.assert_allclose(laws.noising.mean, 0, atol=1e-12)
        for side in laws:
            np.testing.assert_allclose(side.scale, 1, rtol=1e-12)


def test_the_first_gate_is_the_exact_control_to_first_order(float64):
    # Of a target phi e^f with a small Hermite polynomial f of degree 3, by Gauss-Hermite quadrature.
    fractions = schedules.constant(4, total=2.0)
    gates = learned.init(jax.random.key(0), fractions, 1, width=0, features=0)["rows"]["gates"][:, 0, 0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    size, z, step = 1e-6, 0.7, 1e-4
    for k, gate in enumerate(gates):
        signal = np.sqrt(np.prod(1 - np.asarray(fractions[k:])))

        def log_ratio(z, signal=signal):
            x = signal * z + np.sqrt(1 - signal**2) * nodes
            return np.log(weights @ np.exp(size * (x**3 - 3 * x)) / weights.sum())

        control = (log_ratio(z + step) - log_ratio(z - step)) / (2 * step)
        assert float(gate) * size * (3 * z**2 - 3) == pytest.approx(control, rel=1e-3)


def test_without_a_network_it_starts_the_same_and_has_gates_to_learn():
    target = gaussian_mixture(jnp.array([[-1.0, 0.5], [1.0, -0.3]]), jnp.array([0.8, 1.1]))
    fractions, key = schedules.constant(6, total=2.0), jax.random.key(2)
    bare, full = (learned.init(key, fractions, 2, **size) for size in ({"width": 0, "features": 0}, {}))
    assert jax.tree.leaves(bare["layers"])[0].size == bare["heads"].size == bare["rows"]["own"]["heads"].size == 0
    np.testing.assert_array_equal(log_weight(bare, target, key), log_weight(full, target, key))
    gradient = jax.grad(log_weight)(bare, target, key)
    assert np.all(gradient["rows"]["gates"][0, 0] != 0)


def test_a_coordinate_has_features_of_its_own():
    # With the network's heads at zero, what is said of a coordinate depends on it alone, and is not linear in it.
    params = learned.init(jax.random.key(0), schedules.constant(4, total=2.0), 3)
    heads = jax.random.normal(jax.random.key(1), params["rows"]["own"]["heads"].shape)
    params["rows"]["own"] = params["rows"]["own"] | {"heads": heads}
    kernel = learned.kernel(params, lambda z: -z)

    def shift(z):
        return kernel.apply(z, jax.tree.map(lambda row: row[2], kernel.rows)).denoising.scale

    jacobian = jax.jacfwd(shift)(jnp.array([0.3, -0.2, 1.0]))
    np.testing.assert_allclose(jacobian, np.diag(np.diagonal(jacobian)), atol=1e-7)
    assert np.all(np.abs(np.diagonal(jacobian)) > 1e-3)
    assert not np.allclose(jacobian, jax.jacfwd(shift)(jnp.array([0.6, -0.4, 2.0])), rtol=1e-2)


def test_log_variances_are_bounded():
    params = random_parameters(size=1.0)
    kernel = learned.kernel(params, lambda z: -z, bound=2.0)
    laws = jax.vmap(lambda z: kernel.apply(z, jax.tree.map(lambda row: row[2], kernel.rows)))(100 * jnp.eye(2))
    for side in laws:
        assert np.all((np.exp(-1.0001) <= side.scale) & (side.scale <= np.exp(1.0001)))


def test_beyond_its_reach_the_network_says_the_same():
    params = random_parameters(size=0.3)
    kernel = learned.kernel(params, lambda z: -z, reach=2.0)
    far, farther = (
        kernel.apply(z * jnp.array([1.0, -1.0]), jax.tree.map(lambda row: row[2], kernel.rows)) for z in (40.0, 80.0)
    )
    for one, other in zip(far, farther, strict=True):
        np.testing.assert_allclose(one.scale, other.scale, rtol=1e-6)
        assert np.all(np.abs(other.mean) < 3 * np.abs(one.mean) + 1)  # linear, where it could have been quadratic


@pytest.mark.parametrize("option", ["bound", "reach"])
def test_options_are_positive(option):
    with pytest.raises(ValueError, match=f"{option} must be positive, got 0"):
        learned.kernel(random_parameters(), lambda z: -z, **{option: 0.0})


@pytest.mark.slow
def test_sticking_the_landing_has_the_same_values_and_mean_gradient():
    # Also of the schedule and the coordinates, which are in the law of a step without being in its network.
    params = random_parameters()
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def rows(freeze):
        one = jax.value_and_grad(lambda flat, key: log_weight(unravel(flat), SHIFTED, key, freeze))
        return map(np.asarray, jax.jit(jax.vmap(one, (None, 0)))(flat, jax.random.split(jax.random.key(5), 20_000)))

    (plain_values, plain), (stuck_values, stuck) = rows(False), rows(True)
    np.testing.assert_allclose(plain_values, stuck_values, rtol=1e-4, atol=1e-4)
    difference = plain - stuck
    error = difference.std(axis=0) / np.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(axis=0)) < 6 * error + 1e-5)
    assert difference.std() > 0


@pytest.mark.slow
def test_gradient_of_the_schedule_in_log_f_is_not_there_when_laws_are_frozen(float64):
    # log F_k(y' | y) given both states, its parameters constant: by hand, against what the frozen path says.
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), random_parameters(steps=1))
    target = funnel(2)

    def parts(logits, frozen_logits, key):
        moving, fixed = ({**params, "logits": x} for x in (logits, frozen_logits))
        (law, moved), (still, _) = learned.sampler(moving, target), learned.sampler(fixed, target)
        path = sampler.sample_path(key, law)
        (first, last), b, c = path.trajectory.states, law.reference.fractions[0], still.reference.fractions[0]
        row = jax.tree.map(lambda row: row[0], still.kernel.rows)
        ahead = still.kernel.apply(first, row).denoising
        forward = normal.Normal(jnp.sqrt(1 - c) * first + jnp.sqrt(c) * ahead.mean, jnp.sqrt(c) * ahead.scale)
        back = law.kernel.apply(last, jax.tree.map(lambda row: row[1], law.kernel.rows)).noising
        backward = normal.Normal(jnp.sqrt(1 - b) * last + jnp.sqrt(b) * back.mean, jnp.sqrt(b) * back.scale)
        return (
            moved.log_density(last) + normal.log_density(backward, first)
            - normal.log_density(law.prior, first) - normal.log_density(forward, last)
        )  # fmt: skip

    key, logits = jax.random.key(2), params["logits"]
    expected = jax.grad(parts)(logits, logits, key)
    frozen = jax.grad(lambda logits: log_weight({**params, "logits": logits}, target, key, True))(logits)
    np.testing.assert_allclose(frozen, expected, rtol=1e-8)


def test_features_are_not_fewer_than_none():
    with pytest.raises(ValueError, match="features must be at least 0, got -1"):
        learned.init(jax.random.key(0), schedules.constant(4, total=2.0), 3, features=-1)
    learned.init(jax.random.key(0), schedules.constant(4, total=2.0), 3, features=0)


@pytest.mark.slow
def test_the_forward_loss_covers_modes_that_the_reverse_one_would_lose():
    import optax

    from dds import exploration, training
    from dds.targets import many_well
    from dds.types import Normal

    target = many_well(8)
    start = Normal(jnp.zeros(8), jnp.array(2.0))
    points = exploration.temper(jax.random.key(0), target.log_density, start, 4000)
    params = learned.init(jax.random.key(1), schedules.constant(16, total=3.7), 8)

    def loss(params, key):
        law, moved = learned.sampler(params, target)
        choose_key, noise_key = jax.random.split(key)
        x = normal_coordinates(params, jax.random.choice(choose_key, points, (128,)))
        back = jax.vmap(lambda key, x: sampler.retrace(sampler.noise_path(key, law, x), law))
        paths = back(jax.random.split(noise_key, 128), x)
        return losses.forward_kl(
            jax.vmap(lambda path: losses.log_weight(path, law.reference, moved.log_density))(paths)
        )

    def normal_coordinates(params, x):
        return jax.vmap(lambda x: normal.standardise(learned.coordinates(params), x))(x)

    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 1000, 0.01)))
    run = training.fit(jax.random.key(2), params, loss, optimiser, 1000)
    log_w = jax.jit(jax.vmap(lambda key: log_weight(run.params, target, key)))(
        jax.random.split(jax.random.key(3), 10_000)
    )
    estimate = estimators.log_z(log_w)
    assert target.log_z is not None
    assert abs(estimate.value - target.log_z) < 6 * estimate.standard_error
    assert estimators.effective_sample_size(log_w) > 0.3  # four of 16 modes lost would be log Z off by 0.17


@pytest.mark.slow
def test_it_learns_a_funnel():
    import optax

    from dds import training

    target = funnel(3)
    params = learned.init(jax.random.key(0), schedules.constant(8, total=3.7), 3)

    def loss(params, key):
        keys = jax.random.split(key, 128)
        return losses.reverse_kl(jax.vmap(lambda key: log_weight(params, target, key, True))(keys))

    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 2000, 0.01)))
    run = training.fit(jax.random.key(1), params, loss, optimiser, 2000)
    log_w = jax.jit(jax.vmap(lambda key: log_weight(run.params, target, key)))(
        jax.random.split(jax.random.key(2), 10_000)
    )
    assert estimators.elbo(log_w).value > -0.1  # plain DDS at 128 steps in ten dimensions: -0.47
