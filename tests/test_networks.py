import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dds import families, losses, networks, normal, schedules
from dds.targets import funnel
from dds.types import Network


def row(network, params, k, steps=8):
    return jax.tree.map(lambda rows: rows[k], network.tabulate(params, steps))


def perturbed(network, key):
    leaves, tree = jax.tree.flatten(network.init(key))
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_control_is_zero_at_the_start_and_has_a_gradient(precision, depth):
    network = networks.mlp(3, lambda y: -y, width=8, depth=depth)
    params = network.init(jax.random.key(0))
    for k in (0, 7):
        assert not np.any(network.apply(params, jnp.ones(3), row(network, params, k)))
    gradient = jax.grad(lambda p: jnp.sum(network.apply(p, jnp.ones(3), row(network, p, 3)) - jnp.ones(3)) ** 2)(params)
    assert np.any(gradient["out"]["weight"])
    assert np.any(gradient["gate"][-1]["weight"])
    assert gradient["out"]["weight"].dtype == precision


def test_score_enters_through_the_gate_clipped_or_not():
    steep = {clip: networks.mlp(2, lambda y: -1000.0 * y, width=8, score_clip=clip) for clip in (None, 5.0)}
    params = perturbed(steep[None], jax.random.key(0))
    gate = row(steep[None], params, 2)["gate"]
    y = jnp.array([1.0, 0.001])
    plain, clipped = (network.apply(params, y, row(network, params, 2)) for network in steep.values())
    np.testing.assert_allclose(plain - clipped, gate * jnp.array([-1000.0 + 5.0, 0.0]), rtol=1e-4, atol=1e-4)


def test_stopping_the_score_changes_the_gradient_and_not_the_value():
    pair = [networks.mlp(2, lambda y: -(y**3), width=8, stop_score=stop) for stop in (False, True)]
    params = perturbed(pair[0], jax.random.key(0))
    y = jnp.array([0.5, -0.7])
    values = [network.apply(params, y, row(network, params, 1)) for network in pair]
    np.testing.assert_array_equal(*values)
    jacobians = [jax.jacobian(lambda y, n=network: n.apply(params, y, row(n, params, 1)))(y) for network in pair]
    gate = row(pair[0], params, 1)["gate"]
    np.testing.assert_allclose(jacobians[0] - jacobians[1], jnp.diag(gate * -3 * y**2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stick_the_landing", [False, True])
def test_the_table_is_made_once_for_all_paths(stick_the_landing):
    calls = []
    network = networks.mlp(2, lambda y: -y, width=8)

    def tabulate(params, steps):
        calls.append(steps)
        return network.tabulate(params, steps)

    counted = Network(network.init, tabulate, network.apply)
    family = families.dds(counted, schedules.cosine(4, total=1.0), normal.standard(2))

    def loss(params, key):
        bound = {"log_density": funnel(2).log_density, "paths": 10}
        return losses.reverse_kl(family.sampler(params), key, stick_the_landing=stick_the_landing, **bound)

    jax.jit(jax.grad(loss))(network.init(jax.random.key(0)), jax.random.key(1))
    assert calls == [4]


def test_a_state_may_have_more_coordinates_than_the_control():
    network = networks.mlp(2, lambda y: -y[:2], inputs=4, width=8)
    params = perturbed(network, jax.random.key(0))
    y, at = jnp.array([0.5, -0.7, 0.0, 1.0]), row(network, params, 1)
    assert network.apply(params, y, at).shape == (2,)
    assert np.all(np.any(jax.jacobian(lambda y: network.apply(params, y, at))(y), axis=0))


def test_a_network_of_ones_own_fits():
    # A linear control, from a closure: no more than the same three functions.
    target = funnel(2)
    own = Network(
        init=lambda key: {"matrix": 0.1 * jax.random.normal(key, (2, 2))},
        tabulate=lambda params, steps: jnp.linspace(0, 1, steps),
        apply=lambda params, y, time: time * params["matrix"] @ y,
    )

    family = families.dds(own, schedules.cosine(4, total=1.0), normal.standard(2))

    def loss(params, key):
        return losses.reverse_kl(family.sampler(params), key, log_density=target.log_density, paths=1)

    gradient = jax.grad(loss)(own.init(jax.random.key(0)), jax.random.key(1))
    assert np.isfinite(gradient["matrix"]).all()
    assert np.any(gradient["matrix"])
