"""What the README shows, run."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
IN_PYTHON, FROM_PARTS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def execute(program):
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_one_call(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    from dds import recipes

    few = {name: numbers._replace(updates=200) for name, numbers in recipes.DEFAULTS.items()}
    monkeypatch.setattr(recipes, "DEFAULTS", few)
    names = execute(IN_PYTHON)
    assert "rust log Z" in capsys.readouterr().out
    draws = names["draws"]
    assert draws.shape == (2000, 2)
    assert abs(np.mean(draws[:, 0] > 0) - 2 / 3) < 0.1
    exact = np.log(1.5 * 2 * np.pi)
    estimate = names["result"].log_z
    assert abs(estimate.value - exact) < 6 * estimate.standard_error
    assert names["more"].log_weights.shape == (10_000,)


@pytest.mark.slow
def test_the_composition_from_parts_runs_and_learns(capsys):
    names = execute(FROM_PARTS.replace("updates=500", "updates=30"))
    assert names["run"].losses[-10:].mean() < names["run"].losses[:5].mean() - 0.1
    assert "Estimate(value=" in capsys.readouterr().out
    assert bool(jnp.isfinite(names["log_w"]).all())
