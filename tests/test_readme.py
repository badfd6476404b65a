"""What the README shows, run."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

README = (Path(__file__).parents[1] / "README.md").read_text()
BY_HAND, PYTREE, NUMPYRO = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def execute(program):
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    return names


def test_the_composition_by_hand_runs_and_learns(capsys):
    names = execute(BY_HAND.replace("updates=500", "updates=30"))
    assert names["run"].losses[-10:].mean() < names["run"].losses[:5].mean() - 0.1
    assert "Estimate(value=" in capsys.readouterr().out


def test_density_of_a_pytree():
    target = execute(PYTREE)["target"]
    assert target.dim == 7
    assert target.log_density(jnp.arange(7.0)) == pytest.approx(-45.5)


def test_numpyro_model():
    names = execute(NUMPYRO)
    mu, log_sigma = -0.4, 0.7
    x = jnp.asarray(names["flat"]).at[:].set(jnp.array([mu, log_sigma]))  # in the order of the names
    sigma = np.exp(log_sigma)
    expected = scipy.stats.norm.logpdf(mu, 0, 5) + scipy.stats.halfnorm.logpdf(sigma, 0, 5) + log_sigma
    expected += scipy.stats.norm.logpdf([1.0, 2.0, 4.0], mu, sigma).sum()
    assert names["target"].log_density(x) == pytest.approx(expected, rel=1e-5)
    assert set(names["constrained"]) == {"mu", "sigma"}
