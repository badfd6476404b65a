"""The gradients of the losses: which are unbiased, and which is not."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from problems import network_sampler

from dds import losses, normal, ou, reversal, sampler, schedules
from dds.targets import gaussian, gaussian_mixture
from dds.types import Sampler

TARGET = gaussian_mixture(jnp.array([[-1.0, 0.5], [1.0, -0.3]]), jnp.array([0.8, 1.1]))


def path_loss(make, target, freeze_laws=False):
    def loss(params, key):
        law = make(params)
        path = sampler.sample_path(key, law, freeze_laws=freeze_laws)
        return -losses.log_weight(path, law.reference, target.log_density)

    return loss


def values_and_gradients(loss, params, keys):
    """The loss of every path, and its gradient as a row."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    one = jax.value_and_grad(lambda flat, key: loss(unravel(flat), key))
    return map(np.asarray, jax.jit(jax.vmap(one, (None, 0)))(flat, keys))


def gradients(loss, params, keys):
    return list(values_and_gradients(loss, params, keys))[1]


def test_gradient_is_that_of_finite_differences(float64):
    make, params = network_sampler(jax.random.key(0), TARGET, steps=5)
    loss = path_loss(make, TARGET)
    key = jax.random.key(1)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    direction = jax.random.normal(jax.random.key(2), flat.shape)
    step = 1e-5
    value = jax.jit(lambda flat: loss(unravel(flat), key))
    up, down = (value(flat + sign * step * direction) for sign in (1, -1))
    slope = jax.jit(jax.grad(value))(flat) @ direction
    assert slope == pytest.approx(float((up - down) / (2 * step)), rel=1e-6)


@pytest.mark.slow
def test_sticking_the_landing_has_the_same_values_and_mean_gradient():
    make, params = network_sampler(jax.random.key(0), TARGET, steps=8)
    plain, stuck = path_loss(make, TARGET), path_loss(make, TARGET, freeze_laws=True)
    keys = jax.random.split(jax.random.key(1), 2_000)
    (plain_values, plain_rows), (stuck_values, stuck_rows) = (
        values_and_gradients(loss, params, keys) for loss in (plain, stuck)
    )
    np.testing.assert_allclose(plain_values, stuck_values, rtol=1e-4, atol=1e-5)
    difference = plain_rows - stuck_rows
    directions = np.random.default_rng(0).normal(size=(difference.shape[1], 20))
    along = difference @ directions
    assert np.all(np.abs(along.mean(axis=0)) < 6 * along.std(axis=0) / np.sqrt(len(along)))
    assert along.std() > 0  # they are not one and the same


def test_sticking_the_landing_vanishes_at_the_optimum_and_the_plain_gradient_does_not():
    noising = ou.process(schedules.cosine(8, total=2.5), 1.5)
    prior = ou.stationary(noising, 3)

    def make(params):
        return Sampler(prior, noising, reversal.denoising_kernel(noising, lambda y, k: params[k] * jnp.tanh(y)))

    class Reference:
        log_density = staticmethod(lambda x: normal.log_density(prior, x))

    keys = jax.random.split(jax.random.key(0), 100)
    best = jnp.zeros(8)  # the target is the reference, so no control is the best
    np.testing.assert_allclose(gradients(path_loss(make, Reference, True), best, keys), 0, atol=1e-5)
    assert np.abs(gradients(path_loss(make, Reference), best, keys)).max() > 0.1


def test_stopping_the_score_biases_the_gradient():
    # One gate a step on the score of a narrow normal law. Sticking the landing, which is unbiased, is the control.
    target = gaussian(jnp.zeros(2), 0.04 * jnp.eye(2))
    noising = ou.process(schedules.cosine(8, total=2.0), 1.0)

    def make(stop):
        def control(y, gate):
            score = jax.grad(target.log_density)(y)
            return gate * (jax.lax.stop_gradient(score) if stop else score)

        return lambda gates: Sampler(
            ou.stationary(noising, 2), noising, reversal.denoising_kernel(noising, control, gates)
        )

    keys = jax.random.split(jax.random.key(0), 4000)
    gates = jnp.full(8, 0.03)
    true = gradients(path_loss(make(False), target), gates, keys)

    def bias_in_standard_errors(loss):
        difference = gradients(loss, gates, keys) - true
        # The last gate moves nothing but the end of the path: there the three agree to rounding.
        return np.abs(difference.mean(axis=0) / (1e-6 + difference.std(axis=0) / np.sqrt(len(keys)))).max()

    assert bias_in_standard_errors(path_loss(make(False), target, freeze_laws=True)) < 6
    assert bias_in_standard_errors(path_loss(make(True), target)) > 20


@pytest.mark.slow
def test_log_variance_gradient_on_the_samplers_own_paths_is_twice_that_of_reverse_kl():
    # Richter et al. (2020): on-policy the two expectations are proportional; paths must carry no gradient.
    make, params = network_sampler(jax.random.key(0), TARGET, steps=6)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def batch_loss(flat, key):
        def one(key):
            law = make(unravel(flat))
            trajectory = jax.lax.stop_gradient(sampler.sample_path(key, law).trajectory)
            return losses.log_weight(sampler.retrace(trajectory, law), law.reference, TARGET.log_density)

        return losses.log_variance(jax.vmap(one)(jax.random.split(key, 100)))

    variance_rows = np.asarray(
        jax.jit(lambda keys: jax.lax.map(lambda key: jax.grad(batch_loss)(flat, key), keys))(
            jax.random.split(jax.random.key(1), 200)
        )
    )
    kl_rows = gradients(path_loss(make, TARGET, True), params, jax.random.split(jax.random.key(2), 2_000))
    directions = np.random.default_rng(0).normal(size=(len(flat), 20))
    one, other = variance_rows @ directions, 2 * kl_rows @ directions
    error = np.hypot(one.std(axis=0) / np.sqrt(len(one)), other.std(axis=0) / np.sqrt(len(other)))
    assert np.all(np.abs(one.mean(axis=0) - other.mean(axis=0)) < 6 * error)
