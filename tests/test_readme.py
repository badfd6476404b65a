"""What the README shows, run."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_composition_by_hand_runs_and_learns(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(compile(program.replace("updates=200", "updates=30"), "README.md", "exec"), names)
    assert names["run"].losses[-10:].mean() < names["run"].losses[:5].mean() - 0.3
    assert "Estimate(value=" in capsys.readouterr().out
