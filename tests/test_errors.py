"""What is wrong is said: the argument, what came and what was expected."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

from dds import (
    estimators,
    kernels,
    losses,
    networks,
    normal,
    paths,
    references,
    schedules,
    targets,
    training,
)
from dds.types import Family, Kernel, Sampler

SCHEDULES = [schedules.cosine, schedules.linear, schedules.constant]
MEAN = jnp.zeros(2)
TOY = Family(lambda key: MEAN, lambda params: params)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [0, -3])
def test_steps(schedule, steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        schedule(steps, total=1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("total", [0.0, -1.0, 4.0, np.nan])
def test_total(schedule, total):
    with pytest.raises(ValueError, match=rf"noise fraction b_k \(total = {total} over 4 steps\) must be in \(0, 1\)"):
        schedule(4, total=total)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, np.nan])
def test_fractions(bad):
    with pytest.raises(ValueError, match=re.escape("fractions must be in (0, 1), got [")):
        references.ou(jnp.array([0.5, bad]), 2)


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.5, 0.5], [1.0, 0.5], [0.5, np.nan]])
def test_times(times):
    with pytest.raises(ValueError, match="times must be positive"):
        references.brownian(jnp.array(times), 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: targets.funnel(1), "dim must be at least 2, got 1"),
        (lambda: targets.funnel(3, scale=-1.0), "scale must be positive and finite, got -1.0"),
        (lambda: targets.gaussian(MEAN, jnp.array([[1.0, 2.0], [2.0, 1.0]])), "covariance must be symmetric and pos"),
        (lambda: targets.gaussian(MEAN, jnp.array([[1.0, 0.5], [0.0, 1.0]])), "covariance must be symmetric and pos"),
        (lambda: targets.gaussian_mixture(MEAN[None], jnp.zeros(1)), "scales must be positive on the diagonal"),
        (lambda: targets.gaussian_mixture(MEAN[None], jnp.ones(1), -jnp.ones(1)), "weights must be positive"),
        (lambda: networks.mlp(0, jnp.sin), "dim must be at least 1, got 0"),
        (lambda: networks.mlp(2, jnp.sin, width=0), "width must be at least 1, got 0"),
        (lambda: networks.mlp(2, jnp.sin, depth=0), "depth must be at least 1, got 0"),
        (lambda: networks.mlp(2, jnp.sin, score_clip=0.0), "score_clip must be positive or None, got 0.0"),
        (
            lambda: losses.log_variance(reference_sampler(), jax.random.key(0), log_density=jnp.sum, paths=1),
            "paths must be two or more, got 1",
        ),
        (
            lambda: losses.log_weights(reference_sampler(), jax.random.key(0), jnp.sum, 0),
            "paths must be at least 1, got 0",
        ),
        (
            lambda: paths.retrace(jnp.zeros((4, 2)), reference_sampler()),
            r"the shape of states must be \(5, 2\), one state more than steps, got \(4, 2\)",
        ),
        (lambda: references.kinetic(jnp.array([0.5]), jnp.array([jnp.inf]), 2), "angles must be finite"),
        (lambda: targets.gaussian_mixture(jnp.zeros((0, 2)), jnp.zeros(0)), "means must be one or more, got none"),
        (lambda: estimators.resample(jax.random.key(0), jnp.zeros(2), 0), "count must be at least 1, got 0"),
    ],
)
def test_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("target", [targets.funnel(3), targets.gaussian(jnp.zeros(3), jnp.eye(3))])
def test_point_of_another_dimension(target):
    with pytest.raises(ValueError, match=r"the shape of x must be \(3,\), the dimension of the target, got \(2,\)"):
        target.log_density(MEAN)


@pytest.mark.parametrize(
    ("log_density", "message"),
    [
        (lambda x: -(x**2), r"the value of log_density must be a floating-point scalar, got float32\[2\]"),
        (lambda x: jnp.sum(x > 0), r"the value of log_density must be a floating-point scalar, got int32\[\]"),
        (lambda x: (jnp.sum(x), x), "the value of log_density must be a floating-point scalar, got a tuple"),
        (lambda x: jnp.sum(x) * jnp.nan, "log_density must be below infinity, got NaN at 64 of 64 points"),
        (lambda x: jnp.sum(jnp.log(x)), "log_density must be below infinity, got NaN at .* 0, return -infinity"),
        (lambda x: jnp.sum(x) + jnp.inf, "log_density must be below infinity, got .infinity at 64 of 64 points"),
        (lambda x: jnp.sum(x) - jnp.inf, "log_density must be finite where the sampler starts.*got -infinity at all"),
        (lambda x: -jnp.sum(jnp.round(x)), "the gradient of log_density must be other than zero.*zero at all"),
        (lambda x: -jnp.sqrt(jnp.sum(0 * x)) - jnp.sum(x), "the gradient of log_density must be finite"),
        (lambda x: x[5:7] @ jnp.ones(2), r"log_density cannot be evaluated at a point of shape \(2,\): TypeError"),
        (lambda x: float(x[0]), r"log_density cannot be evaluated at a point of shape \(2,\): ConcretizationTypeError"),
        (lambda x: np.sum(np.asarray(x)), r"log_density cannot be evaluated at .*: TracerArrayConversionError"),
    ],
)
def test_density(log_density, message):
    with pytest.raises(ValueError, match=message):
        targets.from_log_density(log_density, 2)


def test_density_whose_gradient_cannot_be_had():
    def by_callback(x):
        return jax.pure_callback(lambda x: -np.sum(x**2), jax.ShapeDtypeStruct((), x.dtype), x)

    with pytest.raises(ValueError, match=r"log_density cannot be differentiated at a point of shape \(2,\): ValueErr"):
        targets.from_log_density(by_callback, 2)


def test_a_density_may_vanish_in_places():
    half = targets.from_log_density(lambda x: jnp.where(x[0] > 0, -jnp.sum(x**2), -jnp.inf), 2)
    assert half.dim == 2


def test_a_small_support_is_found():
    corner = targets.from_log_density(lambda x: jnp.where(jnp.all(x > 1), -jnp.sum(x**2), -jnp.inf), 4)
    assert corner.dim == 4


def test_a_gradient_that_is_broken_in_places_is_said_and_no_reason_to_refuse():
    def log_density(x):  # below -20 the derivative of the root is infinity times zero
        return -jnp.sum(x**2) / 2e3 - jnp.where(x[0] > -20, jnp.sqrt(jnp.maximum(x[0] + 20, 0)), 0)

    message = r"gradient of log_density must be finite, got one that is not at \d+ of 64 points.*as zero"
    with pytest.warns(UserWarning, match=message):
        assert targets.from_log_density(log_density, 2, scale=20.0).dim == 2


def reference_sampler(rows=None):
    fractions = schedules.constant(4, total=1.0)
    reference = references.ou(fractions, 2)
    kernel = kernels.denoising(fractions, lambda y, k: 0 * y, rows)
    return Sampler(reference.start, reference, kernel, normal.standard(2))


def test_old_style_key():
    with pytest.raises(TypeCheckError, match=r"(?s)'key'.*u32\[2\].*Key"):
        paths.sample_path(jax.random.PRNGKey(0), reference_sampler())


def test_rows_of_another_length():
    with pytest.raises(
        ValueError, match="leading axis of the kernel's rows must be one more than the number of steps, 5, got"
    ):
        paths.sample_path(jax.random.key(0), reference_sampler(jnp.zeros(3)))


def test_kernel_of_another_dimension():
    sampler = reference_sampler()
    kernel = kernels.denoising(schedules.constant(4, total=1.0), lambda y, k: jnp.zeros(3))
    with pytest.raises((TypeCheckError, TypeError, ValueError), match=r"shape|promot|broadcast"):
        paths.sample_path(jax.random.key(0), sampler._replace(kernel=kernel))
    wrong = Kernel(kernel.rows, lambda y, row: y)
    with pytest.raises(ValueError, match="what the kernel returns must be Transitions, got a"):
        paths.sample_path(jax.random.key(0), sampler._replace(kernel=wrong))


def test_integer_state():
    with pytest.raises(TypeCheckError, match=r"(?s)i32\[2\].*Float"):
        normal.reparameterise(normal.standard(2), jnp.array([1, 2]))


def test_numbers_and_arrays_that_users_have_are_taken():
    assert targets.funnel(3, scale=2).dim == 3  # an int for a float
    assert targets.funnel(3).log_density(np.zeros(3, np.float32)).shape == ()
    assert schedules.constant(4, total=2).tolist() == [0.5] * 4
    assert networks.mlp(2, jnp.sin, score_clip=5).init(jax.random.key(0))["out"]["bias"].shape == (2,)
    log_weights = np.zeros(10)  # of 64 bits, as NumPy makes them
    assert estimators.effective_sample_size(log_weights) == pytest.approx(1)
    assert estimators.log_z(log_weights).value == 0
    assert estimators.resample(jax.random.key(0), log_weights, 10).tolist() == list(range(10))
    sampler, key, points = reference_sampler(), jax.random.key(0), np.eye(2)
    path = paths.noise_path(key, sampler, points[0])
    assert all(isinstance(leaf, jax.Array) for leaf in path)
    same = paths.noise_path(key, sampler, jnp.asarray(points[0]))
    assert losses.log_weight(path, jnp.sum) == losses.log_weight(same, jnp.sum)
    assert losses.forward_kl(sampler, key, log_density=jnp.sum, points=points, paths=3).shape == ()


@pytest.mark.parametrize(
    ("loss", "came"),
    [
        (lambda params, key: params, r"float32\[2\]"),
        (lambda params, key: jnp.sum(params > 0), "int32"),
        (lambda params, key: (jnp.sum(params), 0), "a tuple"),
    ],
)
def test_loss(loss, came):
    with pytest.raises(ValueError, match=f"the value of loss must be a floating-point scalar, got .*{came}"):
        training.fit(jax.random.key(0), TOY, loss, optax.sgd(0.1), 10)


@pytest.mark.parametrize(("name", "least"), [("updates", 0), ("block", 1)])
def test_lengths_of_training(name, least):
    arguments = {"updates": 10, "block": 5, name: least - 1}
    with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
        training.fit(jax.random.key(0), TOY, lambda p, key: jnp.sum(p), optax.sgd(0.1), **arguments)
