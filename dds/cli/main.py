"""What the command does, in order: read the options, choose, train, evaluate, write and show."""

import contextlib
import math
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

import dds
from dds import choices, compiling, estimators, evaluation, recipes, results, sampling, saving, training
from dds.checks import require
from dds.cli import files, show, tracking
from dds.cli.named import find_target
from dds.recipes import Numbers, Recipe
from dds.results import Goal, Result
from dds.types import KeyArray

HELP = """\
Estimates log Z of a density and draws samples, as cheaply as will do.

With --train, by a denoising diffusion sampler, whatever would do.

Ctrl-C stops the training; what there is by then is evaluated and saved.

  python -m dds funnel --train
  python -m dds forty_modes --seed 1
  python -m dds my_module:log_density --dim 5
  python -m dds --resume dds-output
  python -m dds --load dds-output --samples 100000
"""


def run(
    target: Annotated[str, tyro.conf.Positional] = "funnel",
    *,
    dim: int | None = None,
    train: bool = False,
    precision: float = 0.01,
    draws: int = 1000,
    seconds: float = math.inf,
    devices: int | None = None,
    kernel: Literal["learned", "dds"] = "learned",
    loss: Literal["reverse", "forward"] | None = None,
    steps: int | None = None,
    updates: int | None = None,
    batch: int | None = None,
    samples: int = 10_000,
    seed: int = 0,
    sigma: float | None = None,
    noise: float | None = None,
    whiten: bool = True,
    width: int | None = None,
    depth: int = 2,
    learning_rate: float | None = None,
    score_clip: float = 100.0,
    stop_score: bool = False,
    output: Path = Path("dds-output"),
    pictures: bool = True,
    pair: tuple[int, int] = (0, 1),
    track: Literal["wandb"] | None = None,
    resume: Path | None = None,
    load: Path | None = None,
    version: bool = False,
) -> None:
    """Finds a sampler for a target, reports on it and draws it.

    Samplers are tried from the cheapest on, until the goal of precision and draws is met and nothing speaks against the
    answer. Options of the training, from kernel to stop-score, imply --train.

    Args:
        target: A name (funnel, gaussian, mixture, ionosphere, sonar, german_credit, seeds, rats, law_school, brownian,
            cox_process, many_well, double_wells, forty_modes, phi_four, student_mixture, double_well_particles,
            lennard_jones, nice_digits, vae_digits) or an importable log density, as my_module:log_density.
        dim: The dimension. A name has its own; a log density needs it.
        train: Whether to train a sampler at once, and not to try first what needs no training.
        precision: The goal for the standard error of log Z.
        draws: The goal for the effective number of samples.
        seconds: The budget: when it is spent nothing more is tried, and the best so far is reported.
        devices: The number of devices over which paths are spread; by default all GPUs or TPUs, or the CPU as one. More
            than one make as many of the cores of a CPU.
        kernel: What is learned. "learned": both directions, the schedule and the coordinates. "dds": the control alone,
            as published.
        loss: The divergence that training lowers. "reverse": along the sampler's own paths. "forward", for learned
            kernels: along paths noised from tempered particles. Without it, the one that fits: forward where the search
            for coordinates finds several modes.
        steps: The number of steps K from the prior to the target. This and other numbers of the training have their own
            defaults for what is trained: a network, gates on the score alone (where the target is nearly normal in its
            coordinates, or has many dimensions), a network on several modes, or dds.
        updates: The number of updates of the parameters.
        batch: The number of paths in an update.
        samples: The number of samples that are drawn in the end.
        seed: The seed of all randomness.
        sigma: The standard deviation of the distribution that is wide enough to reach the target. A name has its own;
            otherwise 1.
        noise: The sum of the noise fractions of all steps, 3.7, or 2 for gates alone. The target's signal in
            the prior is exp(-noise / 2).
        whiten: Whether the learned kernel looks for coordinates in which the target is like a standard normal one.
        width: The units of the network's hidden layers; 0 for gates alone.
        depth: The number of the network's hidden layers.
        learning_rate: The learning rate of Adam at its highest; it decays to a hundredth along a cosine.
        score_clip: The bound on each coordinate of the target's score where the network of dds uses it.
        stop_score: Whether no gradient flows through the score in dds: the paper's biased gradient.
        output: The folder to write to; it is made if need be.
        pictures: Whether to draw pictures and the animation.
        pair: The two coordinates that the pictures of a plane and the animation show, counted from 0.
        track: Where to log the progress, the figures and the pictures. "wandb": Weights & Biases, in the output
            folder, without an account or a network, unless WANDB_MODE is set.
        resume: A folder in which a run was cut off: it goes on from its last block, with the options that it had.
        load: A folder of a finished run: more samples are drawn from its sampler, with this seed, into the output
            folder.
        version: Whether to print the version and stop.
    """
    options: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in locals().items()
    }
    if version:
        print(f"dds {dds.__version__}")
        return
    if load is not None:
        draw_more(load, samples, seed, output)
        return
    begun = None
    if resume is not None:
        begun = files.Checkpoint.read(resume)
        options = begun.options | {"output": str(resume)}
    if options["devices"] is not None:
        if compiling.STARVING and options["devices"] > 1:
            os.environ["NPROC"] = str(max(int(os.environ.get("NPROC") or 1), 2 * options["devices"]))
        with contextlib.suppress(RuntimeError):  # JAX has started, in a notebook: there are as many as there are
            jax.config.update("jax_num_cpu_devices", options["devices"])
    with dds.devices.using(options["devices"]):
        find_and_report(options, begun)


def find_and_report(options: dict[str, Any], begun: files.Checkpoint | None) -> None:
    """The main job: each line is a call that a Python user can make."""
    console, output, started = Console(), Path(options["output"]), time.perf_counter()
    named = check(options)
    target, plane, labels = find_target(options["target"], options["dim"], options["sigma"])
    pair = check_pair(options["pair"], target.dim)
    files.prepare(output)
    keys = compiling.split(jax.random.key(options["seed"]), 5)
    goal = Goal(options["precision"], options["draws"], options["seconds"])
    paths, asked, over = options["samples"], asked_for(options, named), partial(sampling.spent, goal, started)
    looked, best, observe, rungs = None, None, None, []
    with console.status("looking at the target"):
        if asked is None:
            looked = sampling.look(keys[0], target, goal=goal, paths=paths)
            rungs = enumerate(choices.ladder(keys[1], target, looked.found), start=1)
        elif begun is None:
            rungs = [(0, choices.choose(keys[1], target, numbers=named, **asked))]
    if begun is not None:
        rungs = [begun.restore(target)[:2]]
        best = saving.load(output / "result.npz", target) if begun.header["kept"] else None
        looked = looked and looked._replace(result=None)
    kept = best is not None

    def train(rung: int, key: KeyArray, recipe: Recipe) -> training.Fit:
        nonlocal observe
        state, history = training.start(key, recipe.family, recipe.optimiser), np.zeros(0, np.float32)
        if begun is not None:
            _, _, state, history = begun.restore(target)
        if recipe.updates:
            observe = tracking.observer(options, recipe, target, keys[3], output)
        checkpoint = partial(files.checkpoint, output, options, rung, kept, recipe)
        return show.train(console, recipe, state, history, checkpoint, observe, over)

    def keep(result: Result) -> None:
        nonlocal kept
        files.write(output, options, result)
        kept = True

    best = sampling.climb(
        keys[2], target, rungs, train, looked, goal=goal, paths=paths, best=best, started=started, keep=keep
    )
    summary = files.finish(output, options, best)
    if options["pictures"]:
        with console.status("drawing"):
            particles = None if looked is None else looked.explored.points
            show.paint(output, keys[4], best, plane, labels, pair, particles)
    tracking.finish(observe or tracking.observer(options, best.recipe, target, keys[3], output), summary, output)
    show.table(console, summary, best.report, output)


def asked_for(options: dict[str, Any], named: dict[str, Any]) -> dict[str, Any] | None:
    """The options of a training that is asked for, or `None` where the ladder is to decide."""
    asked = {name: options[name] for name in ("kernel", "loss", "whiten", "score_clip", "stop_score")}
    plain = {"kernel": "learned", "loss": None, "whiten": True, "score_clip": 100.0, "stop_score": False}
    return asked if options["train"] or named or asked != plain else None


def draw_more(folder: Path, samples: int, seed: int, output: Path) -> None:
    """Draws from the sampler of a finished run."""
    require(samples >= estimators.LEAST, "samples", samples, f"at least {estimators.LEAST}")
    name, dim, sigma = files.target_of(folder)
    target, _, _ = find_target(name, dim, sigma)
    result = saving.load(folder / "result.npz", target)
    files.prepare(output)
    draws = results.draw(jax.random.key(seed), result, samples)
    report = evaluation.summarise(draws.log_weights, log_z_true=target.log_z, log_z_true_error=target.log_z_error)
    files.write_samples(output, draws)
    console = Console()
    console.print(
        f"log Z {report.log_z:.4f} ± {report.log_z_standard_error:.4f}, ESS {report.ess:.1%} of {samples} paths"
    )
    console.print(f"The verdict of the run was: {result.verdict}", soft_wrap=True)
    console.print(f"Written to {(output / 'samples.npz').resolve()}.", soft_wrap=True)


def check(options: dict[str, Any]) -> dict[str, Any]:
    """What can be wrong with options, before anything is spent; and the numbers that were given."""
    samples, seed, sigma = (options[name] for name in ("samples", "seed", "sigma"))
    require(samples >= estimators.LEAST, "samples", samples, f"at least {estimators.LEAST}")
    require(0 <= seed < 2**32, "seed", seed, "from 0 to 4294967295")
    require(sigma is None or 0 < sigma < math.inf, "sigma", sigma, "positive and finite")
    require(options["precision"] > 0, "precision", options["precision"], "positive")
    require(options["draws"] >= 1, "draws", options["draws"], "at least 1")
    require(options["seconds"] > 0, "seconds", options["seconds"], "positive")
    require(options["score_clip"] > 0, "score_clip", options["score_clip"], "positive")
    names = ("steps", "updates", "batch", "learning_rate", "noise", "width", "depth")
    given = {name: options[name] for name in names if options[name] not in (None, Numbers._field_defaults.get(name))}
    recipes.check(given, options["kernel"], options["loss"])
    tracking.check(options["track"])
    return given


def check_pair(pair: Any, dim: int) -> tuple[int, int]:
    """The two coordinates of the pictures; a checkpoint has them as a list. One dimension has no such pictures."""
    first, second = pair
    good = first != second and all(0 <= i < max(dim, 2) for i in pair)
    require(good, "pair", f"{first} {second}", f"two different coordinates, from 0 to {dim - 1}")
    return first, second


def main() -> None:
    """Runs the command; what the user got wrong is said in one line, without a traceback."""
    try:
        tyro.cli(run, prog="python -m dds", description=HELP)
    except (ValueError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; --resume goes on with what was trained, if anything was.")
