"""What is wrong is said: the argument, what came and what was expected."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

from dds import estimators, losses, networks, ou, report, reversal, sampler, schedules, storage, targets, training
from dds.types import Kernel, Laws, Sampler

SCHEDULES = [schedules.cosine, schedules.linear, schedules.constant]
MEAN = jnp.zeros(2)


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
        ou.process(jnp.array([0.5, bad]), 1.0)


def test_no_step():
    with pytest.raises(ValueError, match="fractions must be one or more, got 0 of them"):
        ou.process(jnp.zeros(0), 1.0)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
def test_sigma(sigma):
    with pytest.raises(ValueError, match=f"sigma must be positive and finite, got {sigma}"):
        ou.process(jnp.array([0.5]), sigma)


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
        (lambda: losses.log_variance(jnp.zeros(1)), "log_weights must be two or more, got 1 of them"),
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
        (lambda x: jnp.sum(jnp.log(x)), "log_density must be below infinity, got NaN at"),
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


def reference_sampler(rows=None):
    noising = ou.process(schedules.constant(4, total=1.0), 1.0)
    return Sampler(ou.stationary(noising, 2), noising, reversal.denoising_kernel(noising, lambda y, k: 0 * y, rows))


def test_old_style_key():
    with pytest.raises(TypeCheckError, match=r"(?s)'key'.*u32\[2\].*Key"):
        sampler.sample_path(jax.random.PRNGKey(0), reference_sampler())


def test_rows_of_another_length():
    with pytest.raises(
        ValueError, match="leading axis of the kernel's rows must be one more than the number of steps, 5, got"
    ):
        sampler.sample_path(jax.random.key(0), reference_sampler(jnp.zeros(3)))


def test_kernel_of_another_dimension():
    prior, noising, _ = reference_sampler()
    kernel = reversal.denoising_kernel(noising, lambda y, k: jnp.zeros(3))
    with pytest.raises((TypeCheckError, TypeError)):
        sampler.sample_path(jax.random.key(0), Sampler(prior, noising, kernel))
    with pytest.raises((TypeCheckError, TypeError, AttributeError)):
        sampler.sample_path(jax.random.key(0), Sampler(prior, noising, Kernel(kernel.rows, lambda y, row: Laws(y))))


def test_integer_state():
    with pytest.raises(TypeCheckError, match=r"(?s)i32\[2\].*Float"):
        ou.transition(jnp.array([1, 2]), jnp.array(0.5), jnp.array(1.0))


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
        training.fit(jax.random.key(0), MEAN, loss, optax.sgd(0.1), 10)


@pytest.mark.parametrize("name", ["updates", "block"])
def test_lengths_of_training(name):
    arguments = {"updates": 10, "block": 5, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        training.fit(jax.random.key(0), MEAN, lambda p, key: jnp.sum(p), optax.sgd(0.1), **arguments)


def test_archive(tmp_path):
    storage.save(tmp_path / "a.npz", {"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"the names in the file must be \['y'\], got \['x'\]"):
        storage.load(tmp_path / "a.npz", {"y": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"the shape of x must be \(3,\), got \(2,\)"):
        storage.load(tmp_path / "a.npz", {"x": jnp.zeros(3)})


def test_report_says_what_is_wrong():
    weights = jnp.zeros(1000)
    assert report.verdict(report.report(weights, log_z_true=0.0)).startswith("Trust")
    assert "off the truth by 1" in report.verdict(report.report(weights, log_z_true=1.0))
    assert "not a number" in report.verdict(report.report(weights.at[0].set(jnp.nan)))
    assert "Pareto k" in report.verdict(report.report(3 * jax.random.normal(jax.random.key(0), (1000,))))
    assert "worth only 1 samples" in report.verdict(report.report(weights.at[0].set(20.0)))
    missed = jnp.append(jnp.zeros(500), jnp.full(500, 12.0))  # half of the target is hardly visited
    text = report.verdict(report.report(weights, forward_log_weights=missed))
    assert "hardly visits a part of the target" in text
    for share, suspected in ((0.01, False), (0.05, True)):  # explored points that the sampler should have given weight
        explored = jnp.zeros(1000).at[: int(1000 * share)].set(2.0)
        text = report.verdict(report.report(weights, explored_log_weights=explored))
        assert ("found by other means" in text) == suspected
    assert report.report(weights.at[0].set(jnp.nan), explored_log_weights=weights).unseen == 0
    # A weight of one in a hundred of the whole is known to the sampler: points like it are not unseen.
    known = weights.at[:50].set(2.0)
    assert report.report(known, explored_log_weights=known).unseen == 0
    # One path that saw a weight by chance has not seen what twenty times as many points say is there.
    lucky, explored = weights.at[0].set(2.0), weights.at[:50].set(2.0)
    assert report.report(lucky, explored_log_weights=explored).unseen == pytest.approx(0.05)
