"""What the command writes and reads: every file whole or not at all."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dds import choices, recipes, results, saving, storage, training
from dds.checks import require
from dds.recipes import Recipe
from dds.types import Target


class Checkpoint(NamedTuple):
    """Where a training stood at the end of a block."""

    folder: Path
    header: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the run."""
        return self.header["options"]

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """The checkpoint in a folder."""
        path = folder / "checkpoint.npz"
        require(path.exists(), "resume", folder, "a folder with a checkpoint.npz, of a run that was cut off")
        header = storage.read_header(path)
        require(header.get("kind") == "checkpoint", f"{path}", header.get("kind", "something else"), "a checkpoint")
        return cls(folder, header)

    def restore(self, target: Target) -> tuple[int, Recipe, training.TrainingState, np.ndarray]:
        """The rung, its recipe, state and losses so far."""
        recipe = recipes.build(recipes.template(self.header["plan"]), target)
        assert recipe.plan is not None
        state = training.start(jax.random.key(0), recipe.family, recipe.optimiser)
        like = _tree(recipe.plan, state, np.zeros(self.header["updates"], np.float32))
        tree = storage.load(self.folder / "checkpoint.npz", like)
        recipe = recipes.build(recipe.plan._replace(**tree["plan"]), target)
        return self.header["rung"], recipe, tree["state"], np.asarray(tree["history"])


def checkpoint(
    output: Path,
    options: dict[str, Any],
    rung: int,
    kept: bool,
    recipe: Recipe,
    state: training.TrainingState,
    history: np.ndarray,
) -> None:
    """Writes a checkpoint; `kept` says whether there is a result of this run already, the best so far."""
    assert recipe.plan is not None
    header = {"kind": "checkpoint", "options": options, "rung": rung, "kept": kept, "updates": len(history)}
    header["plan"] = recipes.describe(recipe.plan)
    storage.save(output / "checkpoint.npz", _tree(recipe.plan, state, history), header=header)


def prepare(output: Path) -> None:
    """Makes the output folder and tries to write there, before any time is spent on training."""
    names = ("summary.json", "samples.npz", "parameters.npz", "result.npz", "checkpoint.npz")
    try:
        output.mkdir(parents=True, exist_ok=True)
        storage.write_atomically(output / ".writable", lambda file: file.write(b"ok"))
        (output / ".writable").unlink()
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written, got {output}: {error}.") from error
    folders = [name for name in names if (output / name).is_dir()]
    require(not folders, "output", f"{output}, where {folders} are folders", "a folder without folders of such names")


def write(output: Path, options: dict[str, Any], result: results.Result) -> None:
    """Writes result, parameters, samples and summary."""
    saving.save(output / "result.npz", result)
    storage.save(output / "parameters.npz", result.state.params)
    write_samples(output, results.Draws(result.samples, result.log_weights))
    summary = summarise(options, result)
    text = json.dumps(summary, indent=2) + "\n"
    storage.write_atomically(output / "summary.json", lambda file: file.write(text.encode()))


def finish(output: Path, options: dict[str, Any], result: results.Result) -> dict[str, Any]:
    """Removes what only a run that is cut off needs, and returns the summary."""
    (output / "checkpoint.npz").unlink(missing_ok=True)
    return summarise(options, result)


def write_samples(output: Path, draws: results.Draws) -> None:
    """Writes samples and log weights as plain arrays."""
    arrays: dict[str, Any] = {"samples": np.asarray(draws.samples), "log_weights": np.asarray(draws.log_weights)}
    storage.write_atomically(output / "samples.npz", lambda file: np.savez(file, **arrays))


def summarise(options: dict[str, Any], result: results.Result) -> dict[str, Any]:
    """The figures of a run, as JSON has them: what is not finite is null."""
    plan = result.recipe.plan
    assert plan is not None
    numbers, (seconds, trained) = plan.numbers, result.seconds
    summary = {
        "target": options["target"],
        "dim": result.target.dim,
        "kernel": options["kernel"],
        "loss": "reverse" if plan.points is None else "forward",
        "training": plan.kind,
        "why": plan.why,
        **result.report._asdict(),
        "seconds": round(seconds, 2),
        "seconds_of_training": round(trained, 2),
        "updates": int(result.state.updates),
        "skipped_updates": result.state.skipped,
        "density_evaluations_of_training": int(result.state.updates) * numbers.batch * (numbers.steps + 2),
        "density_evaluations": result.evaluations,
        "seed": options["seed"],
        "steps": numbers.steps,
        "batch": numbers.batch,
        "sigma": float(np.max(choices.starting_point(result.target).scale)),
        "noise": numbers.noise,
        "whitened": plan.kind != "dds" and options["whiten"],
        "precision": options["precision"],
        "verdict": result.verdict,
    }
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in summary.items()}


def target_of(folder: Path) -> tuple[str, int | None, float | None]:
    """The target of a finished run: its name, and the options that made it."""
    path = folder / "summary.json"
    require(path.exists() and (folder / "result.npz").exists(), "load", folder, "the folder of a finished run")
    summary = json.loads(path.read_text())
    return summary["target"], summary["dim"], summary["sigma"]


def _tree(plan: recipes.Plan, state: training.TrainingState, history: np.ndarray) -> dict[str, Any]:
    return {"plan": recipes.arrays_of(plan), "state": state, "history": np.asarray(history, np.float32)}
