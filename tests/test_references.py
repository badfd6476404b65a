"""The reference processes: their steps, their exact reversal and their marginals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from dds import normal, references

DIM = 2
fractions = st.floats(1e-4, 1 - 1e-4)
points = st.lists(st.floats(-5, 5), min_size=DIM, max_size=DIM).map(np.array)
few = settings(deadline=None, max_examples=40)


def process(name, b):
    """One step of each, which renews the fraction `b`."""
    if name == "ou":
        return references.ou(jnp.array([b]), DIM)
    if name == "brownian":
        return references.brownian(jnp.array([0.7 * (1 - b), 0.7]), DIM)
    return references.kinetic(jnp.array([b]), jnp.array([0.6]), DIM)


every_process = pytest.mark.parametrize("name", ["ou", "brownian", "kinetic"])


@every_process
@few
@given(b=fractions, y=points, momentum=points, zeta=points)
def test_a_step_back_is_the_inverse_of_a_step_ahead(name, b, y, momentum, zeta):
    with jax.enable_x64(True):
        reference = process(name, b)
        y = np.concatenate([y, momentum])[: reference.start.mean.size]
        row = reference.rows[0]
        after, eta = reference.ahead(y, zeta, row)
        for came, expected in zip(reference.back(after, eta, row), (y, zeta), strict=True):
            np.testing.assert_allclose(came, expected, atol=1e-9)
        for came, expected in zip(reference.innovations(y, after, row), (zeta, eta), strict=True):
            np.testing.assert_allclose(came, expected, atol=1e-9)


@every_process
@pytest.mark.parametrize("b", [1e-3, 0.4, 0.999])
def test_a_step_takes_the_marginals_and_standard_noise_to_the_marginals_and_standard_noise(float64, name, b):
    # In standardised states the step is linear and orthogonal. So its marginals are what they say, and the step back,
    # whose noise is standard normal and independent of the state it leaves, is the exact reversal.
    reference = process(name, b)
    size = reference.start.mean.size

    def step(both):
        y = normal.reparameterise(reference.start, both[:size])
        after, eta = reference.ahead(y, both[size:], reference.rows[0])
        return jnp.concatenate([normal.standardise(reference.end, after), eta])

    matrix = np.asarray(jax.jacobian(step)(jnp.ones(size + DIM)))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size + DIM), atol=1e-12)
    np.testing.assert_allclose(step(jnp.ones(size + DIM)), matrix.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(reference.end.mean, 0)
    if name != "brownian":
        np.testing.assert_allclose(reference.end.scale, 1)


@few
@given(b=fractions, y=points, noise=points)
def test_the_ou_step_is_the_same_both_ways(b, y, noise):
    with jax.enable_x64(True):
        reference = references.ou(jnp.array([b]), DIM)
        for move in (reference.ahead, reference.back):
            after, _ = move(y, noise, reference.rows[0])
            np.testing.assert_allclose(after, np.sqrt(1 - b) * y + np.sqrt(b) * noise, atol=1e-12)


@few
@given(now=st.floats(0.01, 10), length=st.floats(0.01, 10), y=points, noise=points)
def test_a_brownian_step_adds_noise_and_a_step_back_is_the_bridge_to_the_origin(now, length, y, noise):
    with jax.enable_x64(True):
        then = now + length
        reference = references.brownian(jnp.array([now, then]), DIM)
        after, _ = reference.ahead(y, noise, reference.rows[0])
        np.testing.assert_allclose(after, y + np.sqrt(length) * noise, atol=1e-9)
        before, _ = reference.back(y, noise, reference.rows[0])
        bridge = now / then * y + np.sqrt(now * length / then) * noise
        np.testing.assert_allclose(before, bridge, atol=1e-9)
        np.testing.assert_allclose([reference.start.scale, reference.end.scale], np.sqrt([now, then]), rtol=1e-12)


@few
@given(b=fractions, angle=st.floats(-4, 4), x=points, v=points, noise=points)
def test_a_kinetic_step_renews_the_momentum_and_turns(b, angle, x, v, noise):
    with jax.enable_x64(True):
        reference = references.kinetic(jnp.array([b]), jnp.array([angle]), DIM)
        after, _ = reference.ahead(np.concatenate([x, v]), noise, reference.rows[0])
        renewed, cos, sin = np.sqrt(1 - b) * v + np.sqrt(b) * noise, np.cos(angle), np.sin(angle)
        np.testing.assert_allclose(after[:DIM], cos * x + sin * renewed, atol=1e-9)
        np.testing.assert_allclose(after[DIM:], cos * renewed - sin * x, atol=1e-9)


def test_short_kinetic_steps_are_those_of_the_underdamped_langevin_equation(float64):
    # dx = v dt, dv = -(x + g v) dt + sqrt(2 g) dW: the mean after a time T, and the covariance from a known start.
    friction, time, steps = 1.3, 1.7, 4000
    b, angle = -np.expm1(-2 * friction * time / steps), time / steps
    reference = references.kinetic(jnp.array([b]), jnp.array([angle]), 1)

    def step(both):
        return reference.ahead(both[:2], both[2:], reference.rows[0])[0]

    matrix = np.asarray(jax.jacobian(step)(jnp.zeros(3)))
    mean, covariance = np.eye(2), np.zeros((2, 2))
    for _ in range(steps):
        mean, covariance = matrix[:, :2] @ mean, matrix @ scipy.linalg.block_diag(covariance, 1.0) @ matrix.T
    flow = scipy.linalg.expm(time * np.array([[0.0, 1.0], [-1.0, -friction]]))
    np.testing.assert_allclose(mean, flow, atol=2e-3)
    np.testing.assert_allclose(covariance, np.eye(2) - flow @ flow.T, atol=2e-3)


@few
@given(x=points, b=st.lists(fractions, min_size=3, max_size=3))
def test_noise_levels_are_those_of_many_steps_back(x, b):
    with jax.enable_x64(True):
        reference, levels = references.ou(jnp.array(b), DIM), references.noise_levels(jnp.array(b))
        mean, variance = x, 0.0
        for k in (2, 1, 0):
            mean, _ = reference.back(mean, jnp.zeros(DIM), reference.rows[k])
            variance = (1 - b[k]) * variance + b[k]
            np.testing.assert_allclose(mean, np.sqrt(1 - levels[k]) * x, rtol=1e-6, atol=1e-12)
            assert levels[k] == pytest.approx(variance, rel=1e-9)
        assert levels[3] == 0


def test_noise_levels_keep_precision_where_the_noise_is_small():
    tiny = jnp.full(3, 1e-6, jnp.float32)
    np.testing.assert_allclose(references.noise_levels(tiny)[:-1], [3e-6, 2e-6, 1e-6], rtol=1e-5)
