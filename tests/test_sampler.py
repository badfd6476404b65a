"""Paths in both directions: their innovations, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dds import ou, reversal, sampler, schedules
from dds.types import Kernel, Laws, Normal, Sampler


def reference_sampler(dim=2):
    reference = ou.process(schedules.cosine(6, total=2.0), 1.7)
    kernel = reversal.denoising_kernel(reference, lambda y, k: jnp.zeros_like(y))
    return Sampler(ou.stationary(reference, dim), reference, kernel)


def two_way_sampler(dim=2, steps=5):
    """Kernels with a mean and a scale of their own in both directions, which depend on step and state."""
    reference = ou.process(schedules.linear(steps, total=2.0), 1.2)

    def apply(y, k):
        def law(shift):
            return Normal(jnp.sin(y + shift + k), jnp.exp(0.3 * jnp.cos(y - shift * k)))

        return Laws(law(0.3), law(-0.8))

    prior = Normal(jnp.linspace(-0.5, 0.5, dim), jnp.linspace(0.7, 1.5, dim))
    return Sampler(prior, reference, Kernel(jnp.arange(steps + 1.0), apply))


def test_noising_path_of_the_reference_has_the_law_of_the_process(float64):
    law, x = reference_sampler(), jnp.array([3.0, -1.0])
    paths = jax.vmap(lambda key: sampler.noise_path(key, law, x))(jax.random.split(jax.random.key(0), 50_000))
    states = np.asarray(paths.states)
    for level, column in zip(ou.noise_levels(law.reference.fractions)[:-1], states[:, :-1, 0].T, strict=True):
        exact = ou.transition(x, level, law.reference.sigma)
        assert scipy.stats.kstest((column - exact.mean[0]) / exact.scale, "norm").pvalue > 1e-6


@pytest.mark.parametrize("make", [reference_sampler, two_way_sampler])
@pytest.mark.parametrize("way", ["denoising", "noising"])
def test_innovations_are_those_of_the_states(float64, make, way):
    law, key = make(), jax.random.key(1)
    there = way == "denoising"
    path = sampler.sample_path(key, law).trajectory if there else sampler.noise_path(key, law, jnp.ones(2))
    decays, scales = jnp.sqrt(1 - law.reference.fractions)[:, None], ou.scales(law.reference)[:, None]
    expected = path.states[1:] - decays * path.states[:-1]
    np.testing.assert_allclose(scales * path.innovations, expected, atol=1e-12)


def test_steps_back_have_the_law_of_the_kernel(float64):
    # The last step back starts at the given point, so its law is known.
    law, x = two_way_sampler(), jnp.array([0.4, -1.1])
    paths = jax.vmap(lambda key: sampler.noise_path(key, law, x))(jax.random.split(jax.random.key(0), 50_000))
    exact = law.kernel.apply(x, law.kernel.rows[-1]).noising
    b, sigma = law.reference.fractions[-1], law.reference.sigma
    mean, scale = jnp.sqrt(1 - b) * x + sigma * jnp.sqrt(b) * exact.mean, sigma * jnp.sqrt(b) * exact.scale
    for i in range(2):
        standard = (np.asarray(paths.states)[:, -2, i] - mean[i]) / scale[i]
        assert scipy.stats.kstest(standard, "norm").pvalue > 1e-6


def test_laws_of_the_steps_back_stand_at_their_states(float64):
    law = two_way_sampler()
    path = sampler.sample_path(jax.random.key(3), law)
    for k in range(5):
        expected = law.kernel.apply(path.trajectory.states[k + 1], law.kernel.rows[k + 1]).noising
        np.testing.assert_allclose(path.noising.mean[k], expected.mean, rtol=1e-10)
        np.testing.assert_allclose(path.noising.scale[k], expected.scale, rtol=1e-10)
    again = sampler.retrace(path.trajectory, law)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-10), path, again)
