"""The one identity: what the weight of a path is, and that its mean is Z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import log_weights, network_sampler, normal_target

from dds import estimators, losses, normal, ou, reversal, sampler, schedules
from dds.targets import funnel, gaussian_mixture
from dds.types import Normal, Sampler, Target

MIXTURE = gaussian_mixture(jnp.array([[-1.0, 0.5], [1.0, -0.3]]), jnp.array([0.8, 1.1]), jnp.array([1.0, 2.0]))
LOG_Z = 5.5
SHIFTED = Target(2, lambda x: MIXTURE.log_density(x) + LOG_Z, MIXTURE.sample, LOG_Z)


@pytest.mark.parametrize(("seed", "steps"), [(0, 1), (1, 5), (2, 16), (3, 16)])
def test_mean_weight_is_the_normalising_constant(seed, steps):
    make, params = network_sampler(jax.random.key(seed), SHIFTED, steps=steps)
    log_w = log_weights(jax.random.key(100 + seed), make(params), SHIFTED.log_density, 20_000)
    assert estimators.effective_sample_size(log_w) > 0.05  # mild weights: heavy tails would fool the test
    estimate = estimators.log_z(log_w)
    assert abs(jnp.expm1(estimate.value - LOG_Z)) < 6 * estimate.standard_error


@pytest.mark.parametrize("seed", range(2))
def test_mean_inverse_weight_on_noised_samples_is_the_inverse(seed):
    make, params = network_sampler(jax.random.key(0), SHIFTED)
    law, sample = make(params), MIXTURE.sample
    assert sample is not None

    @jax.jit
    @jax.vmap
    def backward(key):
        sample_key, noise_key = jax.random.split(key)
        back = sampler.noise_path(noise_key, law, sample(sample_key))
        return losses.log_weight(sampler.retrace(back, law), law.reference, SHIFTED.log_density)

    log_w = backward(jax.random.split(jax.random.key(10), 20_000))
    inverse = estimators.log_z(-log_w)
    assert abs(jnp.expm1(inverse.value + LOG_Z)) < 6 * inverse.standard_error
    upper, lower = (
        estimators.eubo(log_w),
        estimators.elbo(log_weights(jax.random.key(0), law, SHIFTED.log_density, 5000)),
    )
    assert lower.value - 6 * lower.standard_error < LOG_Z < upper.value + 6 * upper.standard_error


def one_path(steps=12, sigma=1.3):
    target = funnel(3)
    make, params = network_sampler(jax.random.key(0), target, steps=steps, sigma=sigma)
    law = make(params)
    key = jax.random.key(7)
    path = jax.jit(lambda key: sampler.sample_path(key, law))(key)
    noise = normal.path_noise(key, steps + 1, path.prior.mean)[1:]  # the draws that sample_path makes
    return target, law, path, noise


def test_weight_is_the_papers_girsanov_form_term_by_term(float64):
    target, law, path, noise = one_path()
    states, innovations = path.trajectory
    b, sigma = law.reference.fractions, law.reference.sigma
    u = sigma * path.denoising.mean / jnp.sqrt(b)[:, None]

    quadratic = b * jnp.sum(u**2, axis=1) / (2 * sigma**2)
    martingale = jnp.sqrt(b) * jnp.sum(u * noise, axis=1) / sigma
    terminal = target.log_density(states[-1]) - scipy.stats.norm.logpdf(states[-1], 0, sigma).sum()
    terms = scipy.stats.norm.logpdf(innovations) - scipy.stats.norm.logpdf(innovations, path.denoising.mean, 1)
    np.testing.assert_allclose(terms.sum(axis=1), -quadratic - martingale, rtol=1e-9, atol=1e-12)
    whole = terminal - jnp.sum(quadratic) - jnp.sum(martingale)
    weight = jax.jit(losses.log_weight, static_argnums=2)(path, law.reference, target.log_density)
    assert weight == pytest.approx(float(whole), rel=1e-10)


def test_weight_is_the_ratio_of_path_densities(float64):
    target, law, path, _ = one_path()
    states = np.asarray(path.trajectory.states)
    b, sigma = np.asarray(law.reference.fractions), float(law.reference.sigma)
    scale = sigma * np.sqrt(b)[:, None]
    decay = np.sqrt(1 - b)[:, None]
    log_b = scipy.stats.norm.logpdf(states[:-1], decay * states[1:], scale).sum()
    log_f = scipy.stats.norm.logpdf(
        states[1:], decay * states[:-1] + scale * np.asarray(path.denoising.mean), scale
    ).sum()
    log_prior = scipy.stats.norm.logpdf(states[0], 0, sigma).sum()
    direct = target.log_density(path.trajectory.states[-1]) + log_b - log_prior - log_f
    weight = jax.jit(losses.log_weight, static_argnums=2)(path, law.reference, target.log_density)
    assert weight == pytest.approx(float(direct), rel=1e-9)


def test_weight_with_any_prior_and_covariance_is_the_ratio_of_path_densities(float64):
    # A prior and kernels that have nothing to do with the target: the identity holds all the same.
    dim, steps = 2, 5
    mean, covariance = normal_target(dim)
    noising = ou.process(schedules.linear(steps, total=2.0), 1.2)
    prior = Normal(jnp.array([0.5, -1.0]), jnp.array([0.7, 2.0]))
    kernel = reversal.gaussian_kernel(noising, mean, covariance)
    law = Sampler(prior, noising, kernel)
    path = jax.jit(lambda key: sampler.sample_path(key, law))(jax.random.key(3))
    y = np.asarray(path.trajectory.states)
    direct = float(MIXTURE.log_density(path.trajectory.states[-1]))
    direct -= scipy.stats.norm.logpdf(y[0], prior.mean, prior.scale).sum()
    for k, b in enumerate(np.asarray(noising.fractions)):
        law_k = kernel.apply(path.trajectory.states[k], jax.tree.map(lambda row, k=k: row[k], kernel.rows)).denoising
        scale = 1.2 * np.sqrt(b)
        factor = scale * np.asarray(law_k.scale)
        mean_k = np.sqrt(1 - b) * y[k] + scale * np.asarray(law_k.mean)
        moved = scipy.stats.multivariate_normal(mean_k, factor @ factor.T)
        direct += scipy.stats.norm.logpdf(y[k], np.sqrt(1 - b) * y[k + 1], scale).sum() - moved.logpdf(y[k + 1])
    assert losses.log_weight(path, noising, MIXTURE.log_density) == pytest.approx(direct, rel=1e-9)


def test_retracing_a_path_changes_nothing():
    target, law, path, _ = one_path()
    again = jax.jit(lambda trajectory: sampler.retrace(trajectory, law))(path.trajectory)
    np.testing.assert_allclose(again.denoising.mean, path.denoising.mean, rtol=1e-4, atol=1e-6)
    one, other = (losses.log_weight(p, law.reference, target.log_density) for p in (path, again))
    assert one == pytest.approx(float(other), rel=1e-4)


def test_innovations_are_those_of_the_states(float64):
    _, law, path, _ = one_path()
    states, innovations = path.trajectory
    decays, scales = jnp.sqrt(1 - law.reference.fractions)[:, None], ou.scales(law.reference)[:, None]
    np.testing.assert_allclose(scales * innovations, states[1:] - decays * states[:-1], atol=1e-12)
