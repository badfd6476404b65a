"""Targets for which the sampler is exact: the weights must then say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import log_weights, normal_target, shifted_normal_density

from dds import losses, normal, ou, reversal, sampler, schedules
from dds.types import OU, Normal, Sampler, Trajectory

SCHEDULES = [schedules.cosine, schedules.linear, schedules.constant]
LOG_Z = -3.7


def zero(y, k):
    return jnp.zeros_like(y)


@jax.jit
def weights_of_the_reference(key, fractions, sigma):
    noising = OU(fractions, sigma)
    prior = ou.stationary(noising, 5)
    law = Sampler(prior, noising, reversal.denoising_kernel(noising, zero))
    return log_weights(key, law, lambda x: normal.log_density(prior, x) + LOG_Z, 50)


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
    noising = ou.process(schedules.cosine(512, total=4.0), 50.0)
    prior = ou.stationary(noising, 30)
    law = Sampler(prior, noising, reversal.denoising_kernel(noising, zero))
    log_w = log_weights(jax.random.key(0), law, lambda x: normal.log_density(prior, x) + LOG_Z, 100)
    np.testing.assert_allclose(log_w, LOG_Z, atol=1e-4)


@pytest.mark.parametrize(("steps", "dim", "schedule"), list(zip([1, 2, 64], [1, 7, 3], SCHEDULES, strict=True)))
def test_exact_gaussian_kernel_has_constant_weights(precision, steps, dim, schedule):
    mean, covariance = normal_target(dim, seed=dim)
    noising = ou.process(schedule(steps, total=0.8 * max(1, steps / 4)), 1.4)
    prior = reversal.gaussian_marginal(noising, mean, covariance)
    law = Sampler(prior, noising, reversal.gaussian_kernel(noising, mean, covariance))
    log_w = log_weights(jax.random.key(0), law, shifted_normal_density(mean, covariance, LOG_Z), 50)
    np.testing.assert_allclose(log_w, LOG_Z, atol={"float32": 2e-3, "float64": 1e-9}[precision])


def test_exact_gaussian_kernel_reaches_the_target():
    mean, covariance = normal_target(3)
    noising = ou.process(schedules.cosine(4, total=1.5), 1.4)
    prior = reversal.gaussian_marginal(noising, mean, covariance)
    law = Sampler(prior, noising, reversal.gaussian_kernel(noising, mean, covariance))
    keys = jax.random.split(jax.random.key(1), 50_000)
    x = jax.jit(jax.vmap(lambda key: sampler.sample_path(key, law).trajectory.states[-1]))(keys)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), np.asarray(x - mean[None]).T)
    np.testing.assert_allclose(whitened.mean(axis=1), 0, atol=6 / np.sqrt(50_000))
    np.testing.assert_allclose(np.cov(whitened), np.eye(3), atol=6 * np.sqrt(2 / 50_000))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [schedules.linear, schedules.constant])
def test_exact_control_has_a_gap_that_shrinks_as_one_over_the_steps(float64, schedule):
    mean, covariance = normal_target(3)
    steps, gaps, errors = np.array([32, 64, 128]), [], []
    for count in steps:
        noising = ou.process(schedule(int(count), total=4.0), 1.4)
        control = reversal.gaussian_control(noising, mean, covariance)
        prior = reversal.gaussian_marginal(noising, mean, covariance)
        law = Sampler(prior, noising, reversal.denoising_kernel(noising, control))
        log_w = log_weights(jax.random.key(0), law, shifted_normal_density(mean, covariance, 0.0), 4000)
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
    noising = ou.process(schedules.cosine(steps, total=2.0), 1.4)

    @jax.jit
    def weight(turn, trajectory):
        turned_mean, turned_covariance = turn @ mean, turn @ covariance @ turn.T
        control = reversal.gaussian_control(noising, turned_mean, turned_covariance)
        kernel = reversal.denoising_kernel(noising, lambda y, k: 0.7 * control(y, k))
        law = Sampler(ou.stationary(noising, dim), noising, kernel)
        turned = Trajectory(trajectory.states @ turn.T, trajectory.innovations @ turn.T)
        density = shifted_normal_density(turned_mean, turned_covariance, LOG_Z)
        return losses.log_weight(sampler.retrace(turned, law), noising, density)

    zero = reversal.denoising_kernel(noising, lambda y, k: 0 * y)
    law = Sampler(ou.stationary(noising, dim), noising, zero)
    trajectory = sampler.noise_path(jax.random.key(0), law, jnp.arange(1.0, dim + 1))
    assert weight(rotation, trajectory) == pytest.approx(float(weight(jnp.eye(dim), trajectory)), rel=1e-10)


def test_exact_control_is_the_score_of_the_marginal(float64):
    mean, covariance = normal_target(3)
    noising = ou.process(schedules.cosine(6, total=2.0), 1.4)
    exact = reversal.gaussian_control(noising, mean, covariance)
    y = jnp.array([0.3, -1.0, 2.0])
    for k in range(6):
        law = reversal.gaussian_marginal(noising, mean, covariance, k)
        score = jax.grad(lambda y, law=law: normal.log_density(law, y))(y)
        np.testing.assert_allclose(exact(y, k), reversal.control(y, score, noising.sigma), rtol=1e-9)
        stationary = jax.grad(lambda y: normal.log_density(Normal(jnp.zeros(3), noising.sigma), y))(y)
        by_ratio = noising.sigma**2 * (score - stationary)
        np.testing.assert_allclose(exact(y, k), by_ratio, rtol=1e-9)
        np.testing.assert_allclose(reversal.drift(y, score, noising.sigma), -y + 2 * by_ratio, rtol=1e-9)
