"""The command: `python -m dds funnel` trains a sampler, reports on it and draws it.

It composes the library's functions as any user would; nothing imports it.
"""

import importlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dds import (
    exploration,
    learned,
    losses,
    networks,
    normal,
    ou,
    plots,
    reversal,
    sampler,
    schedules,
    storage,
    targets,
    training,
    whitening,
)
from dds.checks import require
from dds.report import Report, report, verdict
from dds.types import OU, KeyArray, Network, Normal, Params, Sampler, Scalar, State, Target


class Named(NamedTuple):
    """A named target: how to make it, in any dimension or its only one, where to look, and names of two coordinates."""

    make: Callable[..., Target]
    dim: int | None = None
    sigma: float = 1.0
    labels: tuple[str, str] = ("x_1", "x_2")


def _gaussian(dim: int) -> Target:
    distance = jnp.abs(jnp.subtract.outer(jnp.arange(dim), jnp.arange(dim)))
    return targets.gaussian(jnp.ones(dim), 0.7**distance)


def _mixture(dim: int) -> Target:
    angles = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
    ring = 3 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return targets.gaussian_mixture(jnp.pad(ring, ((0, 0), (0, dim - 2))), jnp.full(8, 0.5))


# The first two coordinates of those with a free dimension have the law of the same target in two: the pictures rely on
# it.
NAMED = {
    "funnel": Named(targets.funnel, 10, 1.075, ("v", "x_1")),
    "gaussian": Named(_gaussian, 10),
    "mixture": Named(_mixture, 2, 3.0),
    "ionosphere": Named(targets.ionosphere),
    "sonar": Named(targets.sonar),
    "german_credit": Named(targets.german_credit),
    "seeds": Named(targets.seeds),
    "brownian": Named(targets.brownian),
    "cox_process": Named(targets.cox_process),
    "many_well": Named(targets.many_well, 32, 2.0),
    "forty_modes": Named(targets.forty_modes, 2, 25.0),
}


class Defaults(NamedTuple):
    """The options that each kind of kernel has its own defaults for."""

    steps: int
    updates: int
    batch: int
    learning_rate: float


DEFAULTS = {
    "learned": Defaults(steps=16, updates=4000, batch=128, learning_rate=1e-2),
    "dds": Defaults(steps=128, updates=2000, batch=100, learning_rate=5e-3),
}


class Process(NamedTuple):
    """What is trained: first parameters, the sampler that they make, the way from its coordinates to ours, and back."""

    init: Callable[[KeyArray], Params]
    sampler: Callable[[Params], tuple[Sampler, Target]]
    point: Callable[[Params, State], State]
    inverse: Callable[[Params, State], State]


EXPLORERS = 500
"""The number of chains that look for what the sampler missed."""


def run(
    target: Annotated[str, tyro.conf.Positional] = "funnel",
    *,
    dim: int | None = None,
    kernel: Literal["learned", "dds"] = "learned",
    steps: int | None = None,
    updates: int | None = None,
    batch: int | None = None,
    samples: int = 10_000,
    seed: int = 0,
    sigma: float | None = None,
    noise: float = 3.7,
    whiten: bool = True,
    width: int = 64,
    depth: int = 2,
    learning_rate: float | None = None,
    score_clip: float = 100.0,
    stop_score: bool = False,
    output: Path = Path("dds-output"),
    pictures: bool = True,
) -> None:
    """Trains a denoising diffusion sampler on a target, reports log Z with its error and draws the samples.

    Ctrl-C stops the training; what there is by then is evaluated and saved.

    Args:
        target: A name (funnel, gaussian, mixture, ionosphere, sonar, german_credit, seeds, brownian, cox_process,
            many_well, forty_modes) or an importable log density, as my_module:log_density.
        dim: The dimension. A name has its own; a log density needs it.
        kernel: What is learned. "learned": both directions, the schedule and the prior, in whitened coordinates.
            "dds": the control alone, as published.
        steps: The number of steps K from the prior to the target: 16, or 128 with dds.
        updates: The number of updates of the parameters: 4000, or 2000 with dds.
        batch: The number of paths in an update: 128, or 100 with dds.
        samples: The number of samples that are drawn in the end.
        seed: The seed of all randomness.
        sigma: The standard deviation of the prior, before whitening: where the target is looked for. A name has its
            own; otherwise 1.
        noise: The sum of the noise fractions of all steps. The target's signal in the prior is exp(-noise / 2).
        whiten: Whether the learned kernel looks for coordinates in which the target is like a standard normal law.
        width: The units of the network's hidden layers.
        depth: The number of the network's hidden layers.
        learning_rate: The learning rate of Adam at its highest, 1e-2, or 5e-3 with dds; it decays to a hundredth
            along a cosine.
        score_clip: The bound on each coordinate of the target's score where the network of dds uses it.
        stop_score: Whether no gradient flows through the score in dds: the paper's biased gradient.
        output: The folder to write to; it is made if need be.
        pictures: Whether to draw pictures and the animation.
    """
    default = DEFAULTS[kernel]
    choice = Defaults(
        steps=default.steps if steps is None else steps,
        updates=default.updates if updates is None else updates,
        batch=default.batch if batch is None else batch,
        learning_rate=default.learning_rate if learning_rate is None else learning_rate,
    )
    for name, count in {**choice._asdict(), "samples - 1": samples - 1}.items():
        require(count >= 1 or name == "learning_rate", name, count, "at least 1")
    require(choice.learning_rate > 0, "learning_rate", choice.learning_rate, "positive")
    sigma = (NAMED[target].sigma if target in NAMED else 1.0) if sigma is None else sigma
    require(0 < sigma < math.inf, "sigma", sigma, "positive and finite")
    fractions = (schedules.constant if kernel == "learned" else schedules.cosine)(choice.steps, total=noise)
    density, plane, labels = find_target(target, dim, sigma)
    prepare(output)
    console = Console()
    started = time.perf_counter()
    pilot_key, init_key, fit_key, draw_key, exact_key, explore_key = jax.random.split(jax.random.key(seed), 6)

    start = Normal(jnp.zeros(density.dim), jnp.asarray(sigma))
    law = start
    if kernel == "learned":
        if whiten:
            with console.status("whitening"):
                law = whitening.automatic(pilot_key, density.log_density, start)
        process = learned_process(density, law, fractions, width, depth)
    else:
        reference = ou.process(fractions, sigma)
        slope = jax.grad(density.log_density)
        network = networks.mlp(
            density.dim, slope, width=width, depth=depth, score_clip=score_clip, stop_score=stop_score
        )
        process = plain_process(density, reference, network)

    def log_weight(params: Params, key: KeyArray, *, freeze_laws: bool) -> tuple[Scalar, Array]:
        law, moved = process.sampler(params)
        path = sampler.sample_path(key, law, freeze_laws=freeze_laws)
        return losses.log_weight(path, law.reference, moved.log_density), path.trajectory.states

    def loss(params: Params, key: KeyArray) -> Scalar:
        one = partial(log_weight, params, freeze_laws=True)
        return losses.reverse_kl(jax.vmap(lambda key: one(key)[0])(jax.random.split(key, choice.batch)))

    warm_up = min(100, choice.updates // 10)
    rate, length = choice.learning_rate, max(choice.updates, warm_up + 1)
    schedule = optax.warmup_cosine_decay_schedule(rate / 20, rate, warm_up, length, rate / 100)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    with watch(console, choice.updates) as callback:
        fit = training.fit(
            fit_key, process.init(init_key), loss, optimiser, choice.updates, block=25, callback=callback
        )
    trained = time.perf_counter()

    def forth(key: KeyArray) -> tuple[Scalar, State, Array]:
        log_w, states = log_weight(fit.params, key, freeze_laws=False)
        points = jax.vmap(partial(process.point, fit.params))(states)
        return log_w, points[-1], points[:, :2]

    def back(sample: Callable[[KeyArray], State], key: KeyArray) -> tuple[Scalar, State]:
        law, moved = process.sampler(fit.params)
        sample_key, noise_key = jax.random.split(key)
        x = sample(sample_key)
        path = sampler.retrace(sampler.noise_path(noise_key, law, process.inverse(fit.params, x)), law)
        return losses.log_weight(path, law.reference, moved.log_density), x

    def explored(key: KeyArray) -> State:
        start_key, chain_key = jax.random.split(key)
        x = normal.reparameterise(start, jax.random.normal(start_key, (density.dim,)))
        moved = whitening.whiten(density, law).log_density
        z = exploration.explore(chain_key, moved, normal.standardise(law, x))
        return normal.reparameterise(law, z)

    log_weights, points, planes = many(forth, draw_key, samples)
    forward, exact = (None, None) if density.sample is None else many(partial(back, density.sample), exact_key, samples)
    elsewhere, _ = many(partial(back, explored), explore_key, EXPLORERS)
    figures = report(log_weights, log_z_true=density.log_z, forward_log_weights=forward, explored_log_weights=elsewhere)
    seconds = time.perf_counter() - started

    summary = {
        "target": target,
        "dim": density.dim,
        "kernel": kernel,
        **figures._asdict(),
        "seconds": round(seconds, 2),
        "seconds_of_training": round(trained - started, 2),
        "updates": int(fit.state.updates),
        "skipped_updates": fit.state.skipped,
        "density_evaluations": int(fit.state.updates) * choice.batch * (choice.steps + 1),
        "seed": seed,
        "steps": choice.steps,
        "batch": choice.batch,
        "sigma": sigma,
        "noise": noise,
        "whitened": law is not start,
        "verdict": verdict(figures),
    }
    finite = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in summary.items()}
    (output / "summary.json").write_text(json.dumps(finite, indent=2) + "\n")
    np.savez(output / "samples.npz", samples=points, log_weights=log_weights)
    storage.save(output / "parameters.npz", fit.params)
    if pictures:
        with console.status("drawing"):
            paint(output, fit.losses, figures, points, log_weights, exact, planes[:500], plane, labels)
    show(console, summary, figures, output)


def learned_process(density: Target, law: Normal, fractions: Array, width: int, depth: int) -> Process:
    """The learned process, in the coordinates of a law."""
    whitened = whitening.whiten(density, law)
    return Process(
        init=lambda key: learned.init(key, fractions, density.dim, width=width, depth=depth),
        sampler=lambda params: learned.sampler(params, whitened),
        point=lambda params, z: normal.reparameterise(law, normal.reparameterise(learned.coordinates(params), z)),
        inverse=lambda params, x: normal.standardise(learned.coordinates(params), normal.standardise(law, x)),
    )


def plain_process(density: Target, reference: OU, network: Network) -> Process:
    """DDS as published."""
    prior, steps = ou.stationary(reference, density.dim), reference.fractions.size

    def make(params: Params) -> tuple[Sampler, Target]:
        control = partial(network.apply, params)
        kernel = reversal.denoising_kernel(reference, control, network.tabulate(params, steps))
        return Sampler(prior, reference, kernel), density

    return Process(network.init, make, point=lambda _, x: x, inverse=lambda _, x: x)


def find_target(name: str, dim: int | None, scale: float) -> tuple[Target, Target | None, tuple[str, str]]:
    """The target of a name or of an import path; its law in the plane of its first coordinates; their labels."""
    if name in NAMED:
        named = NAMED[name]
        if named.dim is None:
            require(dim is None, "dim", dim, f"left out, for {name} has its own")
            return named.make(), None, named.labels
        require(dim is None or dim >= 2, "dim", dim, "at least 2")
        return named.make(dim or named.dim), named.make(2), named.labels
    module, colon, attribute = name.partition(":")
    known = f"one of {', '.join(NAMED)}, or an importable log density as my_module:log_density"
    require(bool(colon and module and attribute), "target", repr(name), known)
    require(dim is not None, "dim", dim, "given for a log density of your own")
    try:
        log_density = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"target must be {known}, got {name!r}: {error}.") from error
    target = targets.from_log_density(log_density, int(dim or 0), scale=scale)
    return target, target if dim == 2 else None, ("x_1", "x_2")


def prepare(output: Path) -> None:
    """Makes the output folder and tries to write there, before any time is spent on training."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").touch()
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written, got {output}: {error}.") from error


def many(draw: Callable[[KeyArray], Any], key: KeyArray, count: int) -> Any:
    """Many independent draws, compiled, in batches that bound the memory."""
    return jax.jit(lambda key: jax.lax.map(draw, jax.random.split(key, count), batch_size=1000))(key)


@contextmanager
def watch(console: Console, updates: int) -> Iterator[training.Callback]:
    """A callback that shows the running ELBO and the time left, and stops the training on Ctrl-C."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ELBO {task.fields[elbo]:.3f}"),
        TimeRemainingColumn(),
    )
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        console.print("Stopping at the end of this block; Ctrl-C again to give up.")
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=updates, elbo=math.nan)

            def callback(state: training.State, block: np.ndarray) -> bool:
                progress.update(task, completed=int(state.updates), elbo=-float(np.mean(block)))
                return interrupted

            yield callback
    finally:
        signal.signal(signal.SIGINT, previous)


def paint(output, history, figures, points, log_weights, exact, states, plane, labels) -> None:
    """Draws the pictures and the animation of the first two coordinates."""
    plots.training_history(history, log_z=figures.log_z_true).savefig(output / "training.png")
    if points.shape[1] < 2:
        return
    points, states = np.asarray(points[:, :2]), np.asarray(states).swapaxes(0, 1)
    exact = None if exact is None else np.asarray(exact[:, :2])
    x_limits, y_limits = plots.limits(points if exact is None else exact, coverage=0.97)
    if plane is None:
        grid = plots.histogram_grid(points, x_limits, y_limits, log_weights=log_weights)
    else:
        grid = plots.density_grid(plane.log_density, x_limits, y_limits, log_z=plane.log_z)
    limits = {"x_limits": x_limits, "y_limits": y_limits, "labels": labels}
    plots.scatter(points[:2000], None if exact is None else exact[:2000], **limits).savefig(output / "samples.png")
    if exact is not None:
        plots.scatter(exact[:2000], names=("exact", "exact"), **limits).savefig(output / "exact.png")
    plots.heat_map(grid, points[:500], labels=labels).savefig(output / "density.png")
    plots.surface(grid, labels=labels).savefig(output / "surface.png")
    plots.animate(output / "animation.gif", states, grid, labels=labels)


def show(console: Console, summary: dict[str, Any], figures: Report, output: Path) -> None:
    """Prints the figures as a table, the verdict and where everything lies."""
    table = Table(title=f"{summary['target']}, {summary['dim']} dimensions, {summary['steps']} steps")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("log Z", f"{figures.log_z:.4f} ± {figures.log_z_standard_error:.4f}")
    if figures.log_z_true is not None:
        table.add_row("true log Z", f"{figures.log_z_true:.4f}")
    table.add_row("ELBO", f"{figures.elbo:.4f}")
    if figures.eubo is not None:
        table.add_row("EUBO", f"{figures.eubo:.4f}")
    table.add_row("ESS", f"{figures.ess:.1%}")
    if figures.forward_ess is not None:
        table.add_row("ESS from exact samples", f"{figures.forward_ess:.1%}")
    table.add_row("Pareto k", f"{figures.pareto_k:.2f}")
    table.add_row("seconds, of training", f"{summary['seconds']:.1f}, {summary['seconds_of_training']:.1f}")
    table.add_row("updates", f"{summary['updates']} ({summary['skipped_updates']} skipped)")
    console.print(table)
    console.print(summary["verdict"])
    console.print(f"Written to {output.resolve()}.", soft_wrap=True)


def main() -> None:
    """Runs the command; what the user got wrong is said in one line, without a traceback."""
    try:
        tyro.cli(run, prog="python -m dds")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted before there was anything to save.")


if __name__ == "__main__":
    main()
