"""The learned sampler: where it starts, what it can say, and that it learns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import PLACE, SAMPLERS, SHIFTED, log_weights, perturbed

from dds import estimators, families, learned, losses, normal, paths, schedules, smc, training
from dds.targets import funnel, gaussian, many_well
from dds.types import Normal


def random_parameters(size=0.05):
    """Parameters drawn at random: also those that start at zero."""
    params = learned.init(jax.random.key(0), schedules.linear(6, total=2.0), 2, width=8)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + size * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return structure.unflatten(moved)


def at(kernel, z, k):
    """What a kernel says at a state."""
    return kernel.apply(z, jax.tree.map(lambda row: row[k], kernel.rows))


def test_it_starts_with_a_gate_on_the_score_that_rises(float64):
    target = gaussian(jnp.zeros(2), 4.0 * jnp.eye(2))
    family = families.learned(target.log_density, schedules.constant(4, total=2.0), 2)
    kernel = family.sampler(family.init(jax.random.key(0))).kernel
    z, b = jnp.array([1.0, -2.0]), 0.5
    slope = np.asarray(z - z / 4)
    tamed = slope / (1 + np.sqrt(b) * np.sqrt(np.mean(slope**2)))
    for k in range(5):
        forward, backward, _ = at(kernel, z, k)
        if k < 4:  # no step leaves the last state
            np.testing.assert_allclose(forward.mean, np.sqrt(b) * 0.5 ** (1.5 * (4 - k)) * tamed, rtol=1e-6)
        np.testing.assert_allclose(backward.mean, 0, atol=1e-12)
        for side in (forward, backward):
            np.testing.assert_allclose(side.scale, 1, rtol=1e-12)


@pytest.mark.slow
def test_coordinates_and_schedule_are_learned(float64):
    # Both are those of the sampler, and the weights tell of both.
    place = jax.tree.map(lambda x: x.astype(float), PLACE)
    family = SAMPLERS["learned"](SHIFTED.log_density, place)
    params = perturbed(family)
    sampler, expected = family.sampler(params), normal.compose(place, learned.coordinates(params))
    jax.tree.map(np.testing.assert_array_equal, sampler.coordinates, expected)
    np.testing.assert_array_equal(sampler.reference.rows, learned.fractions(params))

    def loss(params):
        key = jax.random.key(1)
        return losses.reverse_kl(family.sampler(params), key, log_density=SHIFTED.log_density, paths=4)

    gradient = jax.jit(jax.grad(loss))(params)
    for leaf in (gradient["logits"], *gradient["coordinates"].values()):
        assert np.all(leaf != 0)


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
    log_density, key = SHIFTED.log_density, jax.random.key(2)

    def start(**sizes):
        family = families.learned(log_density, schedules.constant(6, total=2.0), 2, **sizes)
        params = family.init(key)

        def log_weight(params):
            return losses.log_weight(paths.sample_path(key, family.sampler(params)), log_density)

        return params, *jax.jit(jax.value_and_grad(log_weight))(params)

    (bare, weight, gradient), (_, full_weight, _) = start(width=0, features=0), start()
    assert jax.tree.leaves(bare["layers"])[0].size == bare["heads"].size == bare["rows"]["own"]["heads"].size == 0
    assert weight == pytest.approx(float(full_weight), rel=1e-6)
    assert np.all(gradient["rows"]["gates"][0, 0] != 0)


def test_a_coordinate_has_features_of_its_own():
    # With the network's heads at zero, what is said of a coordinate depends on it alone, and is not linear in it.
    params = learned.init(jax.random.key(0), schedules.constant(4, total=2.0), 3)
    heads = jax.random.normal(jax.random.key(1), params["rows"]["own"]["heads"].shape)
    params["rows"]["own"] = params["rows"]["own"] | {"heads": heads}
    kernel = learned.kernel(params, lambda z: -z)

    def shift(z):
        return at(kernel, z, 2).forward.scale

    jacobian = jax.jacfwd(shift)(jnp.array([0.3, -0.2, 1.0]))
    np.testing.assert_allclose(jacobian, np.diag(np.diagonal(jacobian)), atol=1e-7)
    assert np.all(np.abs(np.diagonal(jacobian)) > 1e-3)
    assert not np.allclose(jacobian, jax.jacfwd(shift)(jnp.array([0.6, -0.4, 2.0])), rtol=1e-2)


def test_log_variances_are_bounded():
    params = random_parameters(size=1.0)
    kernel = learned.kernel(params, lambda z: -z, bound=2.0)
    transitions = jax.vmap(lambda z: at(kernel, z, 2))(100 * jnp.eye(2))
    for side in (transitions.forward, transitions.backward):
        assert np.all((np.exp(-1.0001) <= side.scale) & (side.scale <= np.exp(1.0001)))


def test_beyond_its_reach_the_network_says_the_same():
    params = random_parameters(size=0.3)
    kernel = learned.kernel(params, lambda z: -z, reach=2.0)
    far, farther = (at(kernel, z * jnp.array([1.0, -1.0]), 2) for z in (40.0, 80.0))
    for one, other in zip(far[:2], farther[:2], strict=True):
        np.testing.assert_allclose(one.scale, other.scale, rtol=1e-6)
        assert np.all(np.abs(other.mean) < 3 * np.abs(one.mean) + 1)  # linear, where it could have been quadratic


@pytest.mark.parametrize("option", ["bound", "reach"])
def test_options_are_positive(option):
    with pytest.raises(ValueError, match=f"{option} must be positive, got 0"):
        learned.kernel(random_parameters(), lambda z: -z, **{option: 0.0})


def test_features_are_not_fewer_than_none():
    with pytest.raises(ValueError, match="features must be at least 0, got -1"):
        learned.init(jax.random.key(0), schedules.constant(4, total=2.0), 3, features=-1)
    learned.init(jax.random.key(0), schedules.constant(4, total=2.0), 3, features=0)


def fitted(family, loss, updates):
    schedule = optax.cosine_decay_schedule(1e-2, updates, 0.01)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    return family.sampler(training.fit(jax.random.key(1), family, loss, optimiser, updates).params)


@pytest.mark.slow
def test_the_forward_loss_covers_modes_that_the_reverse_one_would_lose():
    target = many_well(8)
    wide = Normal(jnp.zeros(8), jnp.array(2.0))
    points = smc.temper(jax.random.key(0), target.log_density, wide, 4000).points
    family = families.learned(target.log_density, schedules.constant(16, total=3.7), 8)
    loss = partial(losses.forward_kl, log_density=target.log_density, points=points, paths=128)
    log_w = log_weights(jax.random.key(3), fitted(family, loss, 1000), target.log_density, 10_000)
    estimate = estimators.log_z(log_w)
    assert target.log_z is not None
    assert abs(estimate.value - target.log_z) < 6 * estimate.standard_error
    assert estimators.effective_sample_size(log_w) > 0.3  # four of 16 modes lost would be log Z off by 0.17


@pytest.mark.slow
def test_it_learns_a_funnel():
    target = funnel(3)
    family = families.learned(target.log_density, schedules.constant(8, total=3.7), 3)
    loss = partial(losses.reverse_kl, log_density=target.log_density, paths=128)
    log_w = log_weights(jax.random.key(2), fitted(family, loss, 2000), target.log_density, 10_000)
    assert estimators.elbo(log_w).value > -0.1  # plain DDS at 128 steps in ten dimensions: -0.47
