"""jit, vmap and grad of every public function that works on arrays, in both precisions."""

import inspect
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from problems import normal_target

from dds import estimators, losses, networks, normal, ou, reversal, sampler, schedules, targets
from dds.types import OU, Normal, Sampler, Trajectory

KEY = jax.random.key(0)
STEPS, DIM = 3, 2
# These take Python numbers or callables and run before anything is compiled.
EAGER = {"estimators.pareto_k", "networks.mlp", "ou.process", "ou.stationary"} | {
    f"{module.__name__[4:]}.{name}"
    for module in (schedules, targets)
    for name, _ in inspect.getmembers(module, inspect.isfunction)
}


def zero_control(y, k):
    return jnp.tanh(y) / (k + 2.0)


def cases():
    x, y = jnp.array([0.3, -0.8]), jnp.array([1.2, 0.4])
    mean, covariance = normal_target(DIM)
    law = Normal(mean, jnp.linalg.cholesky(covariance))
    other = Normal(x, jnp.array([0.5, 1.5]))
    fractions, sigma = jnp.array([0.5, 0.3, 0.1]), jnp.asarray(1.3)
    states, innovations = jnp.linspace(-1, 1, 8).reshape(4, 2), jnp.linspace(2, -1, 6).reshape(3, 2)
    log_w = jnp.array([0.1, -0.7, 0.4, 0.9])
    target = targets.funnel(DIM)
    network = networks.mlp(DIM, jax.grad(target.log_density), width=4)
    flat, unravel = jax.flatten_util.ravel_pytree(network.init(KEY))
    flat = flat + jnp.linspace(-0.3, 0.3, flat.size)
    rows = network.tabulate(unravel(flat), STEPS)

    def sampler_of(fractions, sigma):
        process = OU(fractions, sigma)
        return Sampler(ou.stationary(process, DIM), process, reversal.denoising_kernel(process, zero_control))

    def first(kernel):
        return kernel.apply(x, jax.tree.map(lambda row: row[1], kernel.rows))

    def weight(states, innovations, fractions, sigma):
        path = sampler.retrace(Trajectory(states, innovations), sampler_of(fractions, sigma))
        return losses.log_weight(path, OU(fractions, sigma), target.log_density)

    path = partial(sampler.sample_path, KEY)
    return {
        "normal.path_noise": (lambda x: normal.path_noise(KEY, 4, x), (x,)),
        "normal.reparameterise": (normal.reparameterise, (law, x)),
        "normal.standardise": (normal.standardise, (law, x)),
        "normal.log_determinant": (normal.log_determinant, (law,)),
        "normal.log_density": (normal.log_density, (law, x)),
        "normal.log_ratio": (normal.log_ratio, (law, other, x)),
        "ou.scales": (lambda b, s: ou.scales(OU(b, s)), (fractions, sigma)),
        "ou.transition": (ou.transition, (x, fractions[0], sigma)),
        "ou.noise_levels": (ou.noise_levels, (fractions,)),
        "sampler.noise_path": (lambda b, s, x: sampler.noise_path(KEY, sampler_of(b, s), x), (fractions, sigma, x)),
        "reversal.control": (reversal.control, (x, y, sigma)),
        "reversal.drift": (reversal.drift, (x, y, sigma)),
        "reversal.denoising_kernel": (lambda b, s: first(sampler_of(b, s).kernel), (fractions, sigma)),
        "reversal.gaussian_marginal": (
            lambda b, m, c: reversal.gaussian_marginal(OU(b, sigma), m, c, 1),
            (fractions, mean, covariance),
        ),
        "reversal.gaussian_control": (
            lambda b, m, c: reversal.gaussian_control(OU(b, sigma), m, c)(x, 1),
            (fractions, mean, covariance),
        ),
        "reversal.gaussian_kernel": (
            lambda b, m, c: first(reversal.gaussian_kernel(OU(b, sigma), m, c)),
            (fractions, mean, covariance),
        ),
        "networks.tabulate": (lambda flat: network.tabulate(unravel(flat), STEPS), (flat,)),
        "networks.apply": (
            lambda flat, y: network.apply(unravel(flat), y, jax.tree.map(lambda row: row[0], rows)),
            (flat, x),
        ),
        "sampler.sample_path": (lambda b, s: path(sampler_of(b, s)), (fractions, sigma)),
        "sampler.retrace": (
            lambda y, e, b, s: sampler.retrace(Trajectory(y, e), sampler_of(b, s)),
            (states, innovations, fractions, sigma),
        ),
        "losses.log_weight": (weight, (states, innovations, fractions, sigma)),
        "losses.reverse_kl": (losses.reverse_kl, (log_w,)),
        "losses.forward_kl": (losses.forward_kl, (log_w,)),
        "losses.log_variance": (losses.log_variance, (log_w,)),
        "estimators.log_z": (estimators.log_z, (log_w,)),
        "estimators.elbo": (estimators.elbo, (log_w,)),
        "estimators.eubo": (estimators.eubo, (log_w,)),
        "estimators.effective_sample_size": (estimators.effective_sample_size, (log_w,)),
        "estimators.forward_effective_sample_size": (estimators.forward_effective_sample_size, (log_w,)),
        "estimators.resample": (lambda w: estimators.resample(KEY, w, 5), (log_w,)),
        "targets.funnel": (target.log_density, (x,)),
        "targets.gaussian": (targets.gaussian(mean, covariance).log_density, (x,)),
        "targets.gaussian_mixture": (targets.gaussian_mixture(states, jnp.ones(4)).log_density, (x,)),
    }


def test_every_public_function_is_here():
    modules = (estimators, losses, networks, normal, ou, reversal, sampler, schedules, targets)
    public = {
        f"{module.__name__[4:]}.{name}"
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__.startswith(module.__name__) and not name.startswith("_")
    }
    assert public <= set(cases()) | EAGER, public - set(cases()) - EAGER


@pytest.mark.parametrize("name", cases())
def test_jit_vmap_and_grad(precision, name):
    function, arguments = cases()[name]
    arguments = jax.tree.map(lambda x: x.astype(precision), arguments)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 1e-9, "atol": 1e-12}
    traces = []

    def counted(*arguments):
        traces.append(None)
        return function(*arguments)

    compiled = jax.jit(counted)
    twice = [compiled(*arguments), compiled(*arguments)]
    assert len(traces) == 1
    jax.tree.map(np.testing.assert_array_equal, *twice)
    for leaf in jax.tree.leaves(twice):
        assert leaf.dtype == precision or not jnp.issubdtype(leaf.dtype, jnp.floating)

    batch = jax.tree.map(lambda x: jnp.stack([x, x]), arguments)
    rows = jax.tree.map(np.asarray, jax.jit(jax.vmap(function))(*batch))
    for i in range(2):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a, b[i], **tolerance), twice[0], rows)

    if precision == "float64" and name != "estimators.resample":  # indices have no gradient
        check_grads(jax.jit(function), arguments, order=1, modes=["rev"], rtol=1e-4, atol=1e-5)
