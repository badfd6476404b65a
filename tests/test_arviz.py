"""Samples for ArviZ."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dds
from dds import estimators, evaluation, trust
from dds.results import Draws

# Paths from a normal distribution at 0 and of scale 2, of a target that is normal at 1 and of scale 1.
POINTS = 2 * jax.random.normal(jax.random.key(0), (2000, 3))
LOG_W = jnp.sum(POINTS**2 / 8 - (POINTS - 1) ** 2 / 2, axis=1)
WEIGHTED = Draws({"mu": POINTS[:, 0], "school": {"theta": POINTS[:, 1:]}}, LOG_W)


def test_shapes_names_and_attributes():
    data = dds.to_arviz(jax.random.key(1), WEIGHTED, chains=3, draws=50)
    posterior = data["posterior"]
    assert {name: values.shape for name, values in posterior.items()} == {"mu": (3, 50), "school.theta": (3, 50, 2)}
    assert posterior["mu"].dims == ("chain", "draw")
    report = evaluation.summarise(LOG_W)
    assert data.attrs["verdict"] == trust.verdict(report)
    assert data.attrs["inference_library_version"] == dds.__version__
    for name in ("log_z", "log_z_standard_error", "ess", "samples", "pareto_k"):
        assert data.attrs[name] == getattr(report, name)
    # Arrays that are no PyTree have a name, too.
    assert dds.to_arviz(jax.random.key(1), Draws(POINTS, LOG_W), draws=1)["posterior"]["x"].shape == (4, 1, 3)


def test_by_default_as_many_draws_as_the_samples_are_worth():
    data = dds.to_arviz(jax.random.key(1), WEIGHTED)
    worth = float(estimators.effective_sample_size(LOG_W)) * len(LOG_W)
    assert worth - 4 < data["posterior"]["mu"].size <= worth < len(LOG_W)


def test_weights_are_honoured():
    data = dds.to_arviz(jax.random.key(1), WEIGHTED, draws=1000)
    shares = np.asarray(jax.nn.softmax(LOG_W), np.float64)
    means = np.asarray(data["posterior"]["school.theta"].mean(("chain", "draw")))
    for mean, x in zip(means, np.asarray(POINTS[:, 1:], np.float64).T, strict=True):
        weighted = shares @ x
        error = np.sqrt(shares**2 @ (x - weighted) ** 2)  # of the weighted mean, about the truth
        spread = np.sqrt(shares @ (x - weighted) ** 2 / 4000)  # of as many independent draws, about the weighted mean
        assert abs(mean - weighted) < 4 * spread
        assert abs(mean - 1) < 4 * np.hypot(error, spread)


def test_each_draw_is_a_copy_of_a_sample_with_its_log_weight():
    data = dds.to_arviz(jax.random.key(1), WEIGHTED, draws=500)
    mu, log_w = (np.asarray(group).ravel() for group in (data["posterior"]["mu"], data["sample_stats"]["log_weight"]))
    order = np.argsort(POINTS[:, 0])
    source = order[np.searchsorted(np.asarray(POINTS[:, 0])[order], mu)]
    np.testing.assert_array_equal(POINTS[source, 0], mu)
    np.testing.assert_array_equal(LOG_W[source], log_w)
    counts, expected = np.bincount(source, minlength=len(LOG_W)), 2000 * np.asarray(jax.nn.softmax(LOG_W))
    assert np.all(np.abs(counts - expected) < 1 + 1e-3 * expected)
    # Side by side, most of the draws would be copies of the one before.
    assert counts.max() >= 5
    assert np.mean(np.diff(mu) == 0) < 0.02 < np.mean(np.diff(np.sort(mu)) == 0)


@pytest.mark.slow
def test_a_result_that_was_resampled_is_worth_what_its_report_says():
    result = dds.sample(jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=400)
    result = result._replace(report=result.report._replace(samples=90.0), log_weights=jnp.full(400, 1.0))
    data = dds.to_arviz(jax.random.key(1), result)
    assert data["posterior"]["x"].shape == (4, 22, 2)
    assert data.attrs["verdict"] == result.verdict
    assert np.all(data["sample_stats"]["log_weight"] == 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"chains": 0}, "chains must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"chains": 3000}, "result must be samples worth 3000 or more, for the chains, got samples worth"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        dds.to_arviz(jax.random.key(1), WEIGHTED, **call)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ModuleNotFoundError, match="pip install arviz-base"):
        dds.to_arviz(jax.random.key(1), WEIGHTED)


def test_parameters_of_the_same_name_are_refused():
    samples = {"a.b": POINTS, "a": {"b": POINTS}}
    with pytest.raises(ValueError, match="the names of the parameters must be different"):
        dds.to_arviz(jax.random.key(1), Draws(samples, LOG_W))
