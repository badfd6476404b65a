"""What several tests sample from, and with: above all the samplers that every test of the identity runs over."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dds import conditional, families, losses, mixtures, networks, normal, paths, schedules
from dds.targets import gaussian_mixture
from dds.types import Mixture, Normal, Target

MIXTURE = gaussian_mixture(jnp.array([[-1.0, 0.5], [1.0, -0.3]]), jnp.array([0.8, 1.1]), jnp.array([1.0, 2.0]))
LOG_Z = 5.5
SHIFTED = Target(2, lambda x: MIXTURE.log_density(x) + LOG_Z, MIXTURE.sample, LOG_Z)
PLACE = Normal(jnp.array([0.1, -0.2]), jnp.array([[1.4, 0.0], [0.3, 1.5]]))
STEPS = 6


def _score(log_density, place):
    return jax.grad(normal.pull_back(place, log_density))


def _dds(log_density, place):
    network = networks.mlp(2, _score(log_density, place), width=8)
    return families.dds(network, schedules.cosine(STEPS, total=2.0), place)


def _pis(log_density, place):
    return families.pis(networks.mlp(2, _score(log_density, place), width=8), STEPS, place)


def _underdamped(log_density, place):
    score = _score(log_density, place)
    network = networks.mlp(2, lambda y: score(y[:2]), inputs=4, width=8)
    return families.underdamped(network, jnp.full(STEPS, 0.3), jnp.full(STEPS, 0.4), place)


def _cmcd(log_density, place):
    return families.cmcd(networks.mlp(2, jnp.zeros_like, width=8), jnp.full(STEPS, 0.3), log_density, place)


def _learned(log_density, place):
    return families.learned(log_density, schedules.linear(STEPS, total=1.5), place, width=8)


def _with_mixture(log_density, place):
    plain = families.learned(log_density, schedules.linear(STEPS, total=1.5), place, width=8)
    means = jnp.array([[-0.8, 0.0], [1.0, 0.3]])
    scales = jnp.stack([jnp.eye(2), jnp.array([[0.7, 0.0], [0.2, 1.1]])])
    freedom = jnp.asarray(5.0)
    shares = jnp.log(jnp.array([0.3, 0.7]))
    mixture = jax.tree.map(lambda leaf: leaf.astype(place.mean.dtype), Mixture(shares, means, scales, freedom))
    return families.with_mixture(plain, mixture)


def _conditional(log_density, place):
    neck, _ = conditional.tabulate(log_density, place, jnp.eye(place.mean.size)[:1])
    return families.learned(log_density, schedules.linear(STEPS, total=1.5), conditional.bijection(neck), width=8)


# A new sampler is one entry: from a log density and coordinates to a family.
SAMPLERS = {
    "dds": _dds,
    "pis": _pis,
    "underdamped": _underdamped,
    "cmcd": _cmcd,
    "learned": _learned,
    "mixture": _with_mixture,
    "importance": lambda log_density, place: families.importance(place),
    "conditional": _conditional,
}


def perturbed(family, seed=0, size=0.04):
    """Parameters drawn at random: also those that start at zero."""
    flat, unravel = ravel_pytree(family.init(jax.random.key(seed)))
    return unravel(flat + size * jax.random.normal(jax.random.key(seed + 1), flat.shape))


def sampler_of(name, log_density=SHIFTED.log_density, place=PLACE, seed=0, size=0.04):
    place = jax.tree.map(lambda x: x.astype(float), place)  # of the precision of the test
    family = SAMPLERS[name](log_density, place)
    return family.sampler(perturbed(family, seed, size))


def normal_target(dim, seed=0):
    """Mean and covariance of a normal distribution, neither simple nor badly conditioned."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return jnp.asarray(rng.normal(size=dim)), jnp.asarray(factor @ factor.T + 0.5 * np.eye(dim))


def axes(dim, *few):
    """Rows for coordinates that are some of those of the target."""
    return jnp.eye(dim)[np.array(few, int)]


def shifted_normal_density(mean, covariance, log_z):
    distribution = Normal(mean, jnp.linalg.cholesky(covariance))
    return lambda x: normal.log_density(distribution, x) + log_z


def noise_of(key, sampler):
    """The draws that `sample_path` makes: those of the prior, and a row per step."""
    size = mixtures.noise_size(sampler.prior)
    noise = jax.random.normal(key, (paths.noise_size(sampler),))
    return noise[:size], noise[size:].reshape(-1, paths.steps(sampler)).T


def log_weights(key, sampler, log_density, count):
    return jax.jit(lambda key: losses.log_weights(sampler, key, log_density, count))(key)
