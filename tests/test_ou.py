import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dds import normal, ou
from dds.types import Normal

fractions = st.floats(1e-4, 1 - 1e-4)
sigmas = st.floats(0.1, 10.0)
points = st.lists(st.floats(-5, 5), min_size=2, max_size=2).map(np.array)


@settings(deadline=None, max_examples=50)
@given(b=fractions, sigma=sigmas)
def test_a_step_leaves_the_stationary_law(b, sigma):
    # The image of N(0, s^2) is normal with variance (1 - b) s^2 + sigma^2 b, which must be s^2.
    with jax.enable_x64(True):
        law = ou.transition(jnp.ones(1), jnp.asarray(b), jnp.asarray(sigma))
        gain, spread = law.mean[0], law.scale
        assert gain**2 * sigma**2 + spread**2 == pytest.approx(sigma**2, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(x=points, y=points, b=fractions, sigma=sigmas)
def test_detailed_balance(x, y, b, sigma):
    with jax.enable_x64(True):
        x, y, b, sigma = (jnp.asarray(value) for value in (sigma * x, sigma * y, b, sigma))
        stationary = Normal(jnp.zeros(2), sigma)
        there = normal.log_density(stationary, x) + normal.log_density(ou.transition(x, b, sigma), y)
        back = normal.log_density(stationary, y) + normal.log_density(ou.transition(y, b, sigma), x)
        assert there == pytest.approx(float(back), rel=1e-8, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(x=points, b=st.lists(fractions, min_size=3, max_size=3), sigma=sigmas)
def test_chapman_kolmogorov(x, b, sigma):
    with jax.enable_x64(True):
        x, sigma = jnp.asarray(x), jnp.asarray(sigma)
        mean, variance = x, 0.0
        for fraction in reversed(b):
            step = ou.transition(mean, jnp.asarray(fraction), sigma)
            mean, variance = step.mean, (1 - fraction) * variance + step.scale**2
        levels = ou.noise_levels(jnp.asarray(b))
        whole = ou.transition(x, levels[0], sigma)
        np.testing.assert_allclose(whole.mean, mean, rtol=1e-9, atol=1e-12)
        assert whole.scale**2 == pytest.approx(float(variance), rel=1e-9)
        np.testing.assert_allclose(1 - levels[:-1], np.cumprod(1 - np.array(b)[::-1])[::-1], rtol=1e-6)


def test_noise_levels_keep_precision_where_the_noise_is_small():
    tiny = jnp.full(3, 1e-6, jnp.float32)
    np.testing.assert_allclose(ou.noise_levels(tiny)[:-1], [3e-6, 2e-6, 1e-6], rtol=1e-5)
