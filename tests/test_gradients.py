"""The gradients of the losses: which are unbiased, and which is not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import PLACE, SAMPLERS, SHIFTED, noise_of, perturbed

from dds import families, kernels, losses, normal, paths, references, schedules
from dds.targets import gaussian
from dds.types import Kernel, Normal, Sampler, Transitions


def path_loss(make, log_density, stick_the_landing=False):
    def loss(params, key):
        path = paths.sample_path(key, make(params), stick_the_landing=stick_the_landing)
        return -losses.log_weight(path, log_density)

    return loss


def values_and_gradients(loss, params, keys):
    """The loss of every path, and its gradient as a row."""
    flat, unravel = ravel_pytree(params)
    one = jax.value_and_grad(lambda flat, key: loss(unravel(flat), key))
    return map(np.asarray, jax.jit(jax.vmap(one, (None, 0)))(flat, keys))


def gradients(loss, params, keys):
    return list(values_and_gradients(loss, params, keys))[1]


def problem(name):
    place = jax.tree.map(lambda x: x.astype(float), PLACE)  # of the precision of the test
    family = SAMPLERS[name](SHIFTED.log_density, place)
    return SHIFTED.log_density, family, perturbed(family)


@pytest.mark.parametrize("name", ["underdamped", "cmcd", "learned"])
def test_gradient_is_that_of_finite_differences(float64, name):
    log_density, family, params = problem(name)
    flat, unravel = ravel_pytree(params)
    direction, step, key = jax.random.normal(jax.random.key(2), flat.shape), 1e-5, jax.random.key(1)
    loss = path_loss(family.sampler, log_density)
    value = jax.jit(lambda flat: loss(unravel(flat), key))
    up, down = (value(flat + sign * step * direction) for sign in (1, -1))
    slope = jax.jit(jax.grad(value))(flat) @ direction
    assert slope == pytest.approx(float((up - down) / (2 * step)), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dds", "underdamped", "cmcd", "learned"])
def test_sticking_the_landing_has_the_same_values_and_mean_gradient(name):
    # For the learned sampler also of the schedule and the coordinates, which move the states.
    log_density, family, params = problem(name)
    keys = jax.random.split(jax.random.key(1), 5_000)
    (plain_values, plain), (stuck_values, stuck) = (
        values_and_gradients(path_loss(family.sampler, log_density, stick), params, keys) for stick in (False, True)
    )
    np.testing.assert_allclose(plain_values, stuck_values, rtol=1e-4, atol=1e-4)
    difference = plain - stuck
    error = difference.std(axis=0) / np.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(axis=0)) < 6 * error + 1e-5)
    assert difference.std() > 0  # they are not one and the same


def test_the_stuck_gradient_is_without_that_of_the_parameters_of_prior_and_kernel(float64):
    # One step whose innovation is zeta = m + s e; the mean is closed over and the scale in the rows. By hand: with the
    # parameters of its density constant, only zeta has a gradient. The same for the prior.
    dim, fractions = 2, jnp.array([0.4])
    reference = references.ou(fractions, dim)
    params = {"mean": jnp.array([0.3, -0.2]), "scale": jnp.array([0.7, 1.2]), "start": jnp.array([0.5, 0.1])}

    def make(params):
        def apply(y, scale):
            return Transitions(Normal(params["mean"], scale))

        prior = Normal(params["start"], jnp.array(0.8))
        kernel = Kernel(jnp.stack([params["scale"]] * 2), apply)
        return Sampler(prior, reference, kernel, normal.standard(dim))

    key = jax.random.key(0)
    start_noise, (noise,) = map(np.asarray, noise_of(key, make(params)))
    zeta = np.asarray(params["mean"]) + np.asarray(params["scale"]) * noise
    slope = zeta - noise / np.asarray(params["scale"])  # of log F / R in zeta, at constant mean and scale

    def part(name, stick):
        def value(params):
            path = paths.sample_path(key, make(params), stick_the_landing=stick)
            return jnp.sum(getattr(path, name))

        return jax.grad(value)(params)

    stuck, plain = part("log_forward", True), part("log_forward", False)
    np.testing.assert_allclose(stuck["mean"], slope, rtol=1e-10)
    np.testing.assert_allclose(stuck["scale"], slope * noise, rtol=1e-10)
    np.testing.assert_allclose(plain["mean"], zeta, rtol=1e-10)
    np.testing.assert_allclose(plain["scale"], zeta * noise - 1 / np.asarray(params["scale"]), rtol=1e-10)
    stuck, plain = part("log_prior", True), part("log_prior", False)
    np.testing.assert_allclose(stuck["start"], -start_noise / 0.8, rtol=1e-10)
    np.testing.assert_allclose(plain["start"], 0, atol=1e-10)


def test_sticking_the_landing_vanishes_at_the_optimum_and_the_plain_gradient_does_not():
    fractions = schedules.cosine(8, total=2.5)
    reference, coordinates = references.ou(fractions, 3), Normal(jnp.zeros(3), jnp.array(1.5))

    def make(params):
        kernel = kernels.denoising(fractions, lambda y, k: params[k] * jnp.tanh(y))
        return Sampler(reference.start, reference, kernel, coordinates)

    log_density = partial(normal.log_density, coordinates)
    keys = jax.random.split(jax.random.key(0), 100)
    best = jnp.zeros(8)  # the target is the end of the reference, so no control is the best
    np.testing.assert_allclose(gradients(path_loss(make, log_density, True), best, keys), 0, atol=1e-5)
    assert np.abs(gradients(path_loss(make, log_density), best, keys)).max() > 0.1


def test_stopping_the_score_biases_the_gradient():
    # One gate on the score for each step, of a narrow normal target. Sticking the landing, unbiased, is the control.
    log_density = gaussian(jnp.zeros(2), 0.04 * jnp.eye(2)).log_density
    fractions = schedules.cosine(8, total=2.0)
    reference = references.ou(fractions, 2)

    def make(stop):
        def control(y, gate):
            score = jax.grad(log_density)(y)
            return gate * (jax.lax.stop_gradient(score) if stop else score)

        def sampler(gates):
            kernel = kernels.denoising(fractions, control, gates)
            return Sampler(reference.start, reference, kernel, normal.standard(2))

        return sampler

    keys = jax.random.split(jax.random.key(0), 4000)
    gates = jnp.full(8, 0.03)
    true = gradients(path_loss(make(False), log_density), gates, keys)

    def bias_in_standard_errors(loss):
        difference = gradients(loss, gates, keys) - true
        # The last gate moves nothing but the end of the path: there the three agree to rounding.
        return np.abs(difference.mean(axis=0) / (1e-6 + difference.std(axis=0) / np.sqrt(len(keys)))).max()

    assert bias_in_standard_errors(path_loss(make(False), log_density, True)) < 6
    assert bias_in_standard_errors(path_loss(make(True), log_density)) > 20


@pytest.mark.slow
def test_log_variance_gradient_on_the_samplers_own_paths_is_twice_that_of_reverse_kl():
    # Richter et al. (2020): on-policy the two expectations are proportional; paths must carry no gradient.
    log_density, family, params = problem("dds")
    flat, unravel = ravel_pytree(params)

    def batch_loss(flat, key):
        return losses.log_variance(family.sampler(unravel(flat)), key, log_density=log_density, paths=100)

    gradient = jax.grad(batch_loss)
    variance_rows = np.asarray(
        jax.jit(lambda keys: jax.lax.map(lambda key: gradient(flat, key), keys))(
            jax.random.split(jax.random.key(1), 200)
        )
    )
    loss = path_loss(family.sampler, log_density, True)
    kl_rows = gradients(loss, params, jax.random.split(jax.random.key(2), 2_000))
    directions = np.random.default_rng(0).normal(size=(len(flat), 20))
    one, other = variance_rows @ directions, 2 * kl_rows @ directions
    error = np.hypot(one.std(axis=0) / np.sqrt(len(one)), other.std(axis=0) / np.sqrt(len(other)))
    assert np.all(np.abs(one.mean(axis=0) - other.mean(axis=0)) < 6 * error)


def test_the_losses_are_means_over_log_weights():
    log_density, family, params = problem("dds")
    sampler, key = family.sampler(params), jax.random.key(4)
    bound = {"log_density": log_density, "paths": 50}
    log_w = jax.jit(lambda key: losses.log_weights(sampler, key, **bound))(key)
    for loss, expected in ((losses.reverse_kl, -jnp.mean(log_w)), (losses.log_variance, jnp.var(log_w, ddof=1))):
        came = jax.jit(lambda key, loss=loss: loss(sampler, key, **bound))(key)
        assert came == pytest.approx(float(expected), rel=1e-4)


def test_the_forward_loss_draws_its_points_anew_from_all_of_them():
    # Without steps the loss is log gamma - log q, here the first coordinate of a point: its mean over keys is theirs.
    sampler = families.importance(normal.standard(2)).sampler(())
    points = jnp.stack([jnp.arange(100.0), jnp.zeros(100)], axis=1)

    def log_density(x):
        return normal.log_density(normal.standard(2), x) + x[0]

    def loss(key):
        return losses.forward_kl(sampler, key, log_density=log_density, points=points, paths=4)

    values = np.asarray(jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(0), 2000)))
    assert abs(values.mean() - 49.5) < 6 * values.std() / np.sqrt(2000)
    assert values.std() == pytest.approx(np.sqrt((100**2 - 1) / 12 / 4), rel=0.1)
