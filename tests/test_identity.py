"""The one identity, for every sampler of the registry: what the weight of a path is, and that its mean is Z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import LOG_Z, MIXTURE, PLACE, SAMPLERS, SHIFTED, log_weights, sampler_of

from dds import estimators, losses, normal, paths
from dds.types import Normal

NAMES = list(SAMPLERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_mean_weight_is_the_normalising_constant(name):
    log_w = log_weights(jax.random.key(100), sampler_of(name), SHIFTED.log_density, 20_000)
    assert 0.02 < estimators.effective_sample_size(log_w) < 0.95  # neither fooled by heavy tails, nor trivial
    estimate = estimators.log_z(log_w)
    assert abs(jnp.expm1(estimate.value - LOG_Z)) < 6 * estimate.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_mean_inverse_weight_on_noised_samples_is_the_inverse(name):
    sampler = sampler_of(name)

    @jax.jit
    @jax.vmap
    def backward(key):
        sample_key, noise_key = jax.random.split(key)
        path = paths.noise_path(noise_key, sampler, MIXTURE.sample(sample_key))
        return losses.log_weight(path, SHIFTED.log_density)

    log_w = backward(jax.random.split(jax.random.key(10), 20_000))
    inverse = estimators.log_z(-log_w)
    assert abs(jnp.expm1(inverse.value + LOG_Z)) < 6 * inverse.standard_error
    assert estimators.eubo(log_w).value > LOG_Z - 6 * estimators.eubo(log_w).standard_error


@pytest.mark.parametrize("name", NAMES)
def test_retracing_a_path_gives_its_weight(precision, name):
    sampler = sampler_of(name)

    @jax.jit
    def both(key):
        each = paths.sample_path(key, sampler), paths.noise_path(key, sampler, jnp.array([0.5, -1.0]))
        states = jnp.stack([path.states for path in each])
        again = jax.vmap(lambda y: losses.log_weight(paths.retrace(y, sampler), SHIFTED.log_density))(states)
        return jnp.stack([losses.log_weight(path, SHIFTED.log_density) for path in each]), again

    np.testing.assert_allclose(*both(jax.random.key(7)), rtol=0, atol=1e-4 if precision == "float32" else 1e-10)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixture"])
def test_the_untrained_sampler_of_its_own_coordinates_gives_every_path_the_same_weight(precision, name):
    place = jax.tree.map(lambda x: x.astype(float), PLACE)

    def log_density(x):
        return normal.log_density(place, x) + LOG_Z

    sampler = sampler_of(name, log_density, place, size=0.0)
    log_w = log_weights(jax.random.key(0), sampler, log_density, 50)
    np.testing.assert_allclose(log_w, LOG_Z, atol=2e-5 if precision == "float32" else 1e-11)


def kernel_at(sampler, k, y):
    return sampler.kernel.apply(y, jax.tree.map(lambda row: row[k], sampler.kernel.rows))


def log_prior(prior, y):
    if isinstance(prior, Normal):
        return scipy.stats.norm.logpdf(y, np.asarray(prior.mean), np.asarray(prior.scale)).sum()
    parts = zip(np.exp(prior.log_shares), np.asarray(prior.means), np.asarray(prior.scales), strict=True)
    densities = (
        share * scipy.stats.multivariate_t(mean, scale @ scale.T, df=float(prior.freedom)).pdf(y)
        for share, mean, scale in parts
    )
    return np.log(sum(densities))


def by_definition(name, sampler, path):
    """The weight with the explicit densities of the states, by SciPy: nothing of innovations or of the reference."""
    y, steps = np.asarray(path.states), paths.steps(sampler)
    times = np.arange(1, steps + 2) / (steps + 1)
    jacobian = jax.jacobian(lambda y: normal.bijection(sampler.coordinates).forward(y)[0])(path.states[-1])
    total = SHIFTED.log_density(path.x) + np.linalg.slogdet(jacobian)[1]
    total -= log_prior(sampler.prior, y[0])
    for k in range(steps):
        forward, after = kernel_at(sampler, k, path.states[k]), kernel_at(sampler, k + 1, path.states[k + 1])
        if name == "pis":
            now, then = times[k], times[k + 1]
            ahead = (y[k], np.sqrt(then - now))
            back = (now / then * y[k + 1], np.sqrt(now * (then - now) / then))
        else:
            b = float(sampler.reference.rows[k])
            ahead, back = ((np.sqrt(1 - b) * y[i], np.sqrt(b)) for i in (k, k + 1))
        mean, scale = ahead[0] + ahead[1] * np.asarray(forward.forward.mean), ahead[1] * forward.forward.scale
        total -= scipy.stats.norm.logpdf(y[k + 1], mean, np.broadcast_to(scale, 2)).sum()
        mean, scale = back
        if after.backward is not None:
            mean, scale = mean + scale * np.asarray(after.backward.mean), scale * np.asarray(after.backward.scale)
        total += scipy.stats.norm.logpdf(y[k], mean, np.broadcast_to(scale, 2)).sum()
    return float(total)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "underdamped"])
def test_weight_is_the_ratio_of_path_densities(float64, name):
    sampler = sampler_of(name)
    path = jax.jit(lambda key: paths.sample_path(key, sampler))(jax.random.key(3))
    weight = losses.log_weight(path, SHIFTED.log_density)
    assert weight == pytest.approx(by_definition(name, sampler, path), rel=1e-9)


def test_underdamped_weight_is_the_ratio_of_momentum_densities(float64):
    # The position moves without noise, so a step has the density of the momentum that it renews.
    sampler = sampler_of("underdamped")
    path = jax.jit(lambda key: paths.sample_path(key, sampler))(jax.random.key(3))
    y = np.asarray(path.states)
    total = float(SHIFTED.log_density(path.x) + np.linalg.slogdet(np.asarray(sampler.coordinates.scale, np.float64))[1])
    total += scipy.stats.norm.logpdf(y[-1, 2:]).sum() - scipy.stats.norm.logpdf(y[0]).sum()
    for k, (b, angle) in enumerate(np.asarray(sampler.reference.rows)):
        renewed = np.cos(angle) * y[k + 1, 2:] + np.sin(angle) * y[k + 1, :2]
        control = np.asarray(kernel_at(sampler, k, path.states[k]).forward.mean)
        mean = np.sqrt(1 - b) * y[k, 2:] + np.sqrt(b) * control
        total -= scipy.stats.norm.logpdf(renewed, mean, np.sqrt(b)).sum()
        total += scipy.stats.norm.logpdf(y[k, 2:], np.sqrt(1 - b) * renewed, np.sqrt(b)).sum()
    assert losses.log_weight(path, SHIFTED.log_density) == pytest.approx(total, rel=1e-9)
