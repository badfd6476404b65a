"""What several tests sample from, and with."""

from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from dds import losses, networks, normal, ou, reversal, sampler, schedules
from dds.types import Normal, Sampler


def normal_target(dim, seed=0):
    """Mean and covariance of a normal law, neither simple nor badly conditioned."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return jnp.asarray(rng.normal(size=dim)), jnp.asarray(factor @ factor.T + 0.5 * np.eye(dim))


def shifted_normal_density(mean, covariance, log_z):
    law = Normal(mean, jnp.linalg.cholesky(covariance))
    return lambda x: normal.log_density(law, x) + log_z


def network_sampler(key, target, steps=16, sigma=1.3, size=0.3, **options):
    """A DDS sampler whose network is drawn at random: also the layers that start at zero."""
    noising = ou.process(schedules.cosine(steps, total=min(3.0, 0.3 * steps)), sigma)
    network = networks.mlp(target.dim, jax.grad(target.log_density), width=8, **options)
    zeros, noise_key = network.init(key), jax.random.fold_in(key, 1)
    flat, unravel = jax.flatten_util.ravel_pytree(zeros)
    params = unravel(flat + size * jax.random.normal(noise_key, flat.shape) / 4)

    def make(params):
        control = partial(network.apply, params)
        kernel = reversal.denoising_kernel(noising, control, network.tabulate(params, steps))
        return Sampler(ou.stationary(noising, target.dim), noising, kernel)

    return make, params


def log_weights(key, law, log_density, count):
    def one(key):
        return losses.log_weight(sampler.sample_path(key, law), law.reference, log_density)

    return jax.jit(jax.vmap(one))(jax.random.split(key, count))
