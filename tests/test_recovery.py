"""Targets for which the sampler is exact: the weights must then say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import log_weights, normal_target, shifted_normal_density

from dds import kernels, losses, normal, paths, references, schedules
from dds.types import Normal, Sampler

SCHEDULES = [schedules.cosine, schedules.linear, schedules.constant]
LOG_Z = -3.7
SIGMA = 1.4


def zero(y, k):
    return jnp.zeros_like(y)


def wide(dim, sigma=SIGMA):
    """The coordinates of the paper's reference process, of scale sigma."""
    return Normal(jnp.zeros(dim), jnp.array(sigma))


def reference_sampler(fractions, coordinates, control=zero):
    reference = references.ou(fractions, coordinates.mean.size)
    return Sampler(reference.start, reference, kernels.denoising(fractions, control), coordinates)


def inside(mean, covariance):
    """A normal target in the coordinates of the sampler."""
    return mean / SIGMA, covariance / SIGMA**2


@jax.jit
def weights_of_the_reference(key, fractions, sigma):
    coordinates = Normal(jnp.zeros(5), sigma)
    sampler = reference_sampler(fractions, coordinates)
    return log_weights(key, sampler, lambda x: normal.log_density(coordinates, x) + LOG_Z, 50)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.sampled_from([1, 2, 7, 64]),
    schedule=st.sampled_from(SCHEDULES),
    share=st.floats(0.05, 0.99),
    sigma=st.floats(0.05, 20.0),
    seed=st.integers(0, 2**31),
)
def test_reference_target_with_zero_control_has_constant_weights(steps, schedule, share, sigma, seed):
    fractions = schedule(steps, total=share * max(1, steps / 3))
    log_w = weights_of_the_reference(jax.random.key(seed), fractions, jnp.asarray(sigma, jnp.float32))
    np.testing.assert_allclose(log_w, LOG_Z, atol=1e-5)


def test_float32_weights_survive_steps_that_hardly_move():
    # Differences of states would lose these: the last steps of this schedule move a state by less than its rounding.
    coordinates = wide(30, 50.0)
    sampler = reference_sampler(schedules.cosine(512, total=4.0), coordinates)
    log_w = log_weights(jax.random.key(0), sampler, lambda x: normal.log_density(coordinates, x) + LOG_Z, 100)
    np.testing.assert_allclose(log_w, LOG_Z, atol=1e-4)


def exact_sampler(fractions, mean, covariance, kernel=None):
    """From the exact marginal as prior, by default with the exact kernel."""
    own = inside(mean, covariance)
    prior = kernels.gaussian_marginal(fractions, *own)
    kernel = kernels.gaussian(fractions, *own) if kernel is None else kernel
    return Sampler(prior, references.ou(fractions, mean.size), kernel, wide(mean.size))


@pytest.mark.parametrize(("steps", "dim", "schedule"), list(zip([1, 2, 64], [1, 7, 3], SCHEDULES, strict=True)))
def test_exact_gaussian_kernel_has_constant_weights(precision, steps, dim, schedule):
    mean, covariance = normal_target(dim, seed=dim)
    sampler = exact_sampler(schedule(steps, total=0.8 * max(1, steps / 4)), mean, covariance)
    log_w = log_weights(jax.random.key(0), sampler, shifted_normal_density(mean, covariance, LOG_Z), 50)
    np.testing.assert_allclose(log_w, LOG_Z, atol={"float32": 2e-3, "float64": 1e-9}[precision])


def test_exact_gaussian_kernel_reaches_the_target():
    mean, covariance = normal_target(3)
    sampler = exact_sampler(schedules.cosine(4, total=1.5), mean, covariance)
    keys = jax.random.split(jax.random.key(1), 50_000)
    x = jax.jit(jax.vmap(lambda key: paths.sample_path(key, sampler).x))(keys)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), np.asarray(x - mean[None]).T)
    np.testing.assert_allclose(whitened.mean(axis=1), 0, atol=6 / np.sqrt(50_000))
    np.testing.assert_allclose(np.cov(whitened), np.eye(3), atol=6 * np.sqrt(2 / 50_000))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [schedules.linear, schedules.constant])
def test_exact_control_has_a_gap_that_shrinks_as_one_over_the_steps(float64, schedule):
    mean, covariance = normal_target(3)
    steps, gaps, errors = np.array([32, 64, 128]), [], []
    for count in steps:
        fractions = schedule(int(count), total=4.0)
        control = kernels.gaussian_control(fractions, *inside(mean, covariance))
        sampler = exact_sampler(fractions, mean, covariance, kernels.denoising(fractions, control))
        log_w = log_weights(jax.random.key(0), sampler, shifted_normal_density(mean, covariance, 0.0), 4000)
        gaps.append(-np.mean(log_w))
        errors.append(np.std(log_w) / np.sqrt(len(log_w)))
    gaps, errors = np.array(gaps), np.array(errors)
    local = np.diff(np.log(gaps)) / np.diff(np.log(steps))
    noise = np.hypot(errors[1:] / gaps[1:], errors[:-1] / gaps[:-1]) / np.log(2)
    assert np.all(np.abs(local + 1) < 0.1 + 6 * noise), (local, noise)


def test_rotating_everything_leaves_the_weight(float64):
    dim, steps = 4, 6
    mean, covariance = normal_target(dim)
    rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0])
    fractions = schedules.cosine(steps, total=2.0)

    @jax.jit
    def weight(turn, states):
        turned_mean, turned_covariance = turn @ mean, turn @ covariance @ turn.T
        control = kernels.gaussian_control(fractions, *inside(turned_mean, turned_covariance))
        sampler = reference_sampler(fractions, wide(dim), lambda y, k: 0.7 * control(y, k))
        density = shifted_normal_density(turned_mean, turned_covariance, LOG_Z)
        return losses.log_weight(paths.retrace(states @ turn.T, sampler), density)

    sampler = reference_sampler(fractions, wide(dim))
    states = paths.noise_path(jax.random.key(0), sampler, jnp.arange(1.0, dim + 1)).states
    assert weight(rotation, states) == pytest.approx(float(weight(jnp.eye(dim), states)), rel=1e-10)


def test_exact_control_is_the_score_of_the_marginal(float64):
    mean, covariance = normal_target(3)
    fractions = schedules.cosine(6, total=2.0)
    exact = kernels.gaussian_control(fractions, mean, covariance)
    y = jnp.array([0.3, -1.0, 2.0])
    for k in range(6):
        marginal = kernels.gaussian_marginal(fractions, mean, covariance, k)
        score = jax.grad(lambda y, marginal=marginal: normal.log_density(marginal, y))(y)
        np.testing.assert_allclose(exact(y, k), kernels.control(y, score), rtol=1e-9)
        stationary = jax.grad(lambda y: normal.log_density(normal.standard(3), y))(y)
        by_ratio = score - stationary
        np.testing.assert_allclose(exact(y, k), by_ratio, rtol=1e-9)
        np.testing.assert_allclose(kernels.drift(y, score), -y + 2 * by_ratio, rtol=1e-9)
