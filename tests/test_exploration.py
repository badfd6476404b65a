"""Chains that look for what a sampler missed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import log_weights

from dds import exploration, losses, normal, ou, reversal, sampler, schedules, targets, whitening
from dds.report import doubts, report
from dds.types import Normal, Sampler


def test_chains_leave_the_target_as_it_is():
    # Started from exact samples they end with the law of the target, whatever the step size does: five standard errors.
    # A quartic density shows at once if proposals are not rejected as they should be.
    target = targets.many_well(2)
    keys = jax.random.split(jax.random.key(0), 4000)
    start = jax.vmap(target.sample)(jax.random.split(jax.random.key(1), 4000))
    end = jax.jit(jax.vmap(lambda key, x: exploration.explore(key, target.log_density, x, steps=200)))(keys, start)
    other = jax.vmap(target.sample)(jax.random.split(jax.random.key(2), 4000))
    assert np.abs(end - start).mean() > 0.2
    for f in (lambda x: x, jnp.square, jnp.cos):
        one, two = np.asarray(f(end)), np.asarray(f(other))
        error = np.sqrt((one.var(axis=0) + two.var(axis=0)) / 4000)
        # The step size learns from the path, so the law is exact only in the limit.
        assert np.all(np.abs(one.mean(axis=0) - two.mean(axis=0)) < 5 * error + 0.02)


def test_chains_need_a_step():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        exploration.explore(jax.random.key(0), lambda x: -(x @ x), jnp.zeros(1), steps=0)


def figures_of(law, target, start):
    log_w = log_weights(jax.random.key(0), law, target.log_density, 10_000)

    @jax.jit
    @jax.vmap
    def explored(key):
        start_key, chain_key, noise_key = jax.random.split(key, 3)
        first = normal.reparameterise(start, jax.random.normal(start_key, start.mean.shape))
        x = exploration.explore(chain_key, target.log_density, first)
        path = sampler.retrace(sampler.noise_path(noise_key, law, x), law)
        return losses.log_weight(path, law.reference, target.log_density)

    return report(log_w, explored_log_weights=explored(jax.random.split(jax.random.key(1), 200)))


def test_a_sampler_that_sees_only_right_hand_wells_is_found_out():
    # Its weights look fine: a high effective sample size, a light tail, and a log Z that is off by 2 log 0.844.
    target = targets.many_well(4)
    right = whitening.laplace(target.log_density, jnp.tile(jnp.array([1.7, 0.0]), 2))
    reference = ou.process(schedules.cosine(16, total=4.0), 1.0)
    kernel = reversal.gaussian_kernel(reference, right.mean, right.scale @ right.scale.T)
    law = Sampler(reversal.gaussian_marginal(reference, right.mean, right.scale @ right.scale.T, 0), reference, kernel)
    figures = figures_of(law, target, Normal(jnp.zeros(4), jnp.array(2.0)))
    assert figures.ess > 0.7
    assert figures.pareto_k < 0.7
    assert figures.log_z == pytest.approx(target.log_z + 2 * np.log(0.844), abs=0.03)
    assert figures.unseen > 0.3
    (reason,) = doubts(figures)
    assert "found by independent chains" in reason


def test_a_sampler_that_misses_nothing_is_not_suspected():
    mean, covariance = jnp.array([1.0, -2.0]), jnp.array([[2.0, 0.5], [0.5, 1.0]])
    target = targets.gaussian(mean, covariance)
    reference = ou.process(schedules.cosine(32, total=3.0), 1.5)
    control = reversal.gaussian_control(reference, mean, covariance)
    law = Sampler(ou.stationary(reference, 2), reference, reversal.denoising_kernel(reference, control))
    figures = figures_of(law, target, ou.stationary(reference, 2))
    assert figures.ess < 0.99  # nor is it perfect
    assert figures.unseen < 0.02
    assert doubts(figures) == []
