"""The probability flow: its density against closed forms and by quadrature, and log Z by it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import LOG_Z, SHIFTED, normal_target, sampler_of, shifted_normal_density

from dds import estimators, kernels, normal, probability_flow, references, schedules
from dds.types import Kernel, Normal, Sampler, Transitions


def controlled(dim, steps, total=4.0):
    """The exact control of a normal target, as a DDS has it: from the prior, which is not quite the right start."""
    mean, covariance = (part.astype(float) for part in normal_target(dim))
    fractions = schedules.constant(steps, total=total)
    reference = references.ou(fractions, dim)
    exact = kernels.gaussian_control(fractions, mean, covariance)
    sampler = Sampler(reference.start, reference, kernels.denoising(fractions, exact), normal.standard(dim))
    return sampler, mean, covariance


def draws(sampler, count, seed=0, **options):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(jax.vmap(lambda key: probability_flow.draw(key, sampler, **options)))(keys)


@pytest.mark.parametrize("heun", [True, False])
def test_density_of_a_linear_flow_is_that_of_a_normal_distribution(float64, heun):
    # A linear control makes an affine map of the prior, so the ends are normal: fitted exactly to d + 1 of them.
    sampler, _, _ = controlled(3, 8)
    drawn = draws(sampler, 200, heun=heun)
    assert not drawn.folded.any()
    features = np.concatenate([np.ones((200, 1)), drawn.x], axis=1)
    pairs = [(i, j) for i in range(3) for j in range(i + 1)]
    squares = np.stack([drawn.x[:, i] * drawn.x[:, j] for i, j in pairs], axis=1)
    quadratic = np.concatenate([features, squares], axis=1)
    coefficients, *_ = np.linalg.lstsq(quadratic, drawn.log_density, rcond=None)
    np.testing.assert_allclose(quadratic @ coefficients, drawn.log_density, atol=1e-9)
    precision = np.zeros((3, 3))
    for value, (i, j) in zip(coefficients[4:], pairs, strict=True):
        precision[i, j] -= value
        precision[j, i] -= value
    mean = np.linalg.solve(precision, coefficients[1:4])
    log_normaliser = 0.5 * np.linalg.slogdet(precision)[1] - 1.5 * np.log(2 * np.pi) - 0.5 * mean @ precision @ mean
    assert coefficients[0] == pytest.approx(log_normaliser, abs=1e-9)  # so the density integrates to one


@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
def test_it_tends_to_the_target_at_the_order_of_the_rule(float64, heun, order):
    # With the exact control, and the exact marginal as prior: what is left is the error of the steps.
    mean, covariance = (part.astype(float) for part in normal_target(2))
    log_density = shifted_normal_density(mean, covariance, 0.0)

    def error(steps):
        fractions = schedules.constant(steps, total=1.0)
        exact = kernels.gaussian_control(fractions, mean, covariance)
        rows = jnp.arange(steps + 1)  # the control is known at the last state, too

        def apply(y, k):
            return Transitions(Normal(jnp.sqrt(fractions[0]) * exact(y, k), jnp.ones((), y.dtype)))

        prior = kernels.gaussian_marginal(fractions, mean, covariance)
        sampler = Sampler(prior, references.ou(fractions, 2), Kernel(rows, apply), normal.standard(2))
        drawn = draws(sampler, 500, heun=heun)
        return np.abs(jax.vmap(log_density)(drawn.x) - drawn.log_density).mean()

    errors = [error(steps) for steps in (16, 32)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("heun", [True, False])
def test_mean_weight_is_the_normalising_constant(heun):
    # A network with random parameters, few steps: neither the right control nor a fine grid.
    drawn = draws(sampler_of("dds"), 20_000, heun=heun)
    assert not drawn.folded.any()
    log_w = jax.vmap(SHIFTED.log_density)(drawn.x) - drawn.log_density
    estimate = estimators.log_z(log_w)
    assert abs(jnp.expm1(estimate.value - LOG_Z)) < 6 * estimate.standard_error < 0.1
    assert estimators.effective_sample_size(log_w) < 0.95


def test_divergence_by_probes_is_that_of_the_determinants_where_steps_are_short():
    sampler, _, _ = controlled(3, 256)
    exact, probed = draws(sampler, 100), draws(sampler, 100, probes=200)
    np.testing.assert_array_equal(exact.x, probed.x)
    # 200 probes leave some noise; its mean over the draws has less.
    difference = np.asarray(exact.log_density - probed.log_density)
    assert np.abs(difference.mean()) < 5 * difference.std() / 10 + 1e-3
    assert np.abs(difference).max() < 0.5


@pytest.mark.parametrize("dim", [1, 2])  # in the plane the determinant is positive
def test_steps_that_are_too_long_are_told(dim):
    fractions = jnp.full(2, 0.9)
    reference = references.ou(fractions, dim)
    steep = kernels.denoising(fractions, lambda y, k: -5 * y)
    assert draws(Sampler(reference.start, reference, steep, normal.standard(dim)), 3, heun=False).folded.all()


def test_a_flow_that_folds_the_plane_gives_more_than_the_normalising_constant_and_says_so():
    # One step y -> y + (2 / pi) sin(4 pi y): 17 points come to one near the middle.
    fractions = jnp.array([1 - jnp.exp(-2.0)])  # a step of length one
    reference = references.ou(fractions, 1)
    wavy = kernels.denoising(fractions, lambda y, k: 2 / jnp.pi * jnp.sin(4 * jnp.pi * y))
    drawn = draws(Sampler(reference.start, reference, wavy, normal.standard(1)), 4000, heun=False)
    log_w = jax.vmap(partial(normal.log_density, normal.standard(1)))(drawn.x) - drawn.log_density
    assert estimators.log_z(log_w).value > 1
    assert drawn.folded.mean() > 0.3


@pytest.mark.parametrize("name", ["pis", "underdamped"])
def test_another_process_is_refused(name):
    with pytest.raises(ValueError, match="the reference of the sampler must be the Ornstein-Uhlenbeck process"):
        probability_flow.draw(jax.random.key(0), sampler_of(name))


@pytest.mark.parametrize("name", ["cmcd", "learned"])
def test_learned_steps_back_are_refused(name):
    with pytest.raises(ValueError, match="the kernel must be one with those of the OU's"):
        probability_flow.draw(jax.random.key(0), sampler_of(name))
