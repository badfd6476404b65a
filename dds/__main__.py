"""The command: `python -m dds funnel` trains a sampler, reports on it and draws it.

It composes the library's functions as any user would; nothing imports it.
"""

import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array
from rich.console import Console

from dds import _tracking, estimators, exploration, losses, schedules, storage, training, whitening
from dds._named import NAMED, find_target
from dds._presentation import paint, show, watch
from dds._processes import (
    DEFAULTS,
    kind_of_training,
    learned_process,
    log_weight,
    log_weight_back,
    many,
    plain_process,
)
from dds.checks import require
from dds.report import report, verdict
from dds.types import KeyArray, Normal, Params, Scalar, State

POPULATION = 10_000
"""The number of points of the target that the forward loss trains on."""

EXPLORERS = 1000
"""The number of points, of a population of their own, that are asked what the sampler missed."""


def run(
    target: Annotated[str, tyro.conf.Positional] = "funnel",
    *,
    dim: int | None = None,
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
    track: Literal["wandb"] | None = None,
) -> None:
    """Trains a denoising diffusion sampler on a target, reports log Z with its error and draws the samples.

    Ctrl-C stops the training; what there is by then is evaluated and saved.

    Args:
        target: A name (funnel, gaussian, mixture, ionosphere, sonar, german_credit, seeds, brownian, cox_process,
            many_well, forty_modes) or an importable log density, as my_module:log_density.
        dim: The dimension. A name has its own; a log density needs it.
        kernel: What is learned. "learned": both directions, the schedule and the prior, in whitened coordinates.
            "dds": the control alone, as published.
        loss: The divergence that training lowers. "reverse": along the sampler's own paths. "forward", for learned
            kernels: along paths noised back from a tempered population of points. Without it, the one that fits:
            forward where the search for coordinates finds several modes.
        steps: The number of steps K from the prior to the target. This and other numbers of the training have their own
            defaults for what is trained: a network, gates alone (where the target is nearly normal in its coordinates,
            or has many dimensions), a network on several modes, or dds.
        updates: The number of updates of the parameters.
        batch: The number of paths in an update.
        samples: The number of samples that are drawn in the end.
        seed: The seed of all randomness.
        sigma: The standard deviation of the prior, before whitening: where the target is looked for. A name has its
            own; otherwise 1.
        noise: The sum of the noise fractions of all steps, 3.7, or 2 for gates alone. The target's signal in
            the prior is exp(-noise / 2).
        whiten: Whether the learned kernel looks for coordinates in which the target is like a standard normal law.
        width: The units of the network's hidden layers; 0 for gates alone.
        depth: The number of the network's hidden layers.
        learning_rate: The learning rate of Adam at its highest; it decays to a hundredth along a cosine.
        score_clip: The bound on each coordinate of the target's score where the network of dds uses it.
        stop_score: Whether no gradient flows through the score in dds: the paper's biased gradient.
        output: The folder to write to; it is made if need be.
        pictures: Whether to draw pictures and the animation.
        track: Where to log the progress, the figures and the pictures. "wandb": Weights & Biases, in the output
            folder, without an account or a network, unless WANDB_MODE is set.
    """
    require(samples >= estimators.LEAST, "samples", samples, f"at least {estimators.LEAST}")
    for name, count in {"steps": steps, "updates": updates, "batch": batch}.items():
        require(count is None or count >= 1, name, count, "at least 1")
    require(learning_rate is None or learning_rate > 0, "learning_rate", learning_rate, "positive")
    require(kernel == "learned" or loss != "forward", "loss", loss, "reverse with the dds kernel")
    sigma = (NAMED[target].sigma if target in NAMED else 1.0) if sigma is None else sigma
    require(0 < sigma < math.inf, "sigma", sigma, "positive and finite")
    names = ("steps", "updates", "batch", "learning_rate", "noise", "width")
    values = (steps, updates, batch, learning_rate, noise, width)
    given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    for kind, default in DEFAULTS.items():  # whichever will be chosen, its schedule can be made
        options = default._replace(**given)
        if (kind == "dds") == (kernel == "dds"):
            (schedules.cosine if kind == "dds" else schedules.constant)(options.steps, total=options.noise)
    density, plane, labels = find_target(target, dim, sigma)
    prepare(output)
    console = Console()
    started = time.perf_counter()
    law_key, pilot_key, init_key, fit_key, draw_key, exact_key, explore_key, back_key, track_key = jax.random.split(
        jax.random.key(seed), 9
    )

    start = Normal(jnp.zeros(density.dim), jnp.asarray(sigma))
    law, population, kind = start, None, kernel
    if kernel == "learned":
        with console.status("looking for coordinates"):
            if whiten:
                law = whitening.automatic(law_key, density.log_density, start)
            if loss is None:
                loss = "forward" if whiten and law is start else "reverse"
            if loss == "forward":
                kind = "modes"
                population = exploration.temper(pilot_key, density.log_density, law, POPULATION)
                if whiten and law is start:
                    law = Normal(jnp.mean(population, axis=0), jnp.std(population, axis=0))
            elif width is not None:
                kind = "network" if width else "gates"
            else:
                kind = kind_of_training(init_key, density, law)
    options = DEFAULTS[kind]._replace(**given)
    if kernel == "learned":
        process = learned_process(density, law, options, depth)
    else:
        process = plain_process(density, sigma, options, depth, score_clip, stop_score)

    def reverse(params: Params, key: KeyArray) -> Scalar:
        one = partial(log_weight, process, params, freeze_laws=True)
        return losses.reverse_kl(jax.vmap(lambda key: one(key)[0])(jax.random.split(key, options.batch)))

    def forward(params: Params, key: KeyArray) -> Scalar:
        assert population is not None
        choose_key, noise_key = jax.random.split(key)
        x = jax.random.choice(choose_key, population, (options.batch,))
        back = partial(log_weight_back, process, params)
        return losses.forward_kl(jax.vmap(back)(jax.random.split(noise_key, options.batch), x))

    warm_up = min(100, options.updates // 10)
    rate, length = options.learning_rate, max(options.updates, warm_up + 1)
    rates = optax.warmup_cosine_decay_schedule(rate / 20, rate, warm_up, length, rate / 100)
    optimiser = optax.chain(_tracking.observed_norm(), optax.clip_by_global_norm(1.0), optax.adam(rates))
    objective, bound = (reverse, "ELBO") if population is None else (forward, "EUBO")
    settings = {"target": target, "training": kind, "seed": seed, **options._asdict()}
    tracked = _tracking.start(track, settings, output)
    observe = tracked and _tracking.observer(tracked, track_key, lambda *given: log_weight(process, *given)[0])
    with watch(console, options.updates, bound, observe) as callback:
        fit = training.fit(
            fit_key, process.init(init_key), objective, optimiser, options.updates, block=25, callback=callback
        )
    trained = time.perf_counter()

    def draw(params: Params, key: KeyArray) -> tuple[Scalar, State, Array]:
        log_w, states = log_weight(process, params, key)
        points = jax.vmap(partial(process.point, params))(states)
        return log_w, points[-1], points[:, :2]

    log_weights, points, planes = many(draw, fit.params, jax.random.split(draw_key, samples))
    back, exact, forward_log_weights = partial(log_weight_back, process), None, None
    if density.sample is not None:
        exact = jax.jit(jax.vmap(density.sample))(jax.random.split(exact_key, samples))
        forward_log_weights = many(back, fit.params, jax.random.split(back_key, samples), exact)
    # In many dimensions a wide start takes too long.
    wide, count = (start, EXPLORERS) if density.dim <= whitening.DENSE else (law, EXPLORERS // 10)
    elsewhere = exploration.temper(explore_key, density.log_density, wide, count, coordinates=law)
    explored = many(back, fit.params, jax.random.split(explore_key, count), elsewhere)
    figures = report(
        log_weights,
        log_z_true=density.log_z,
        forward_log_weights=forward_log_weights,
        explored_log_weights=explored,
    )
    seconds = time.perf_counter() - started

    summary = {
        "target": target,
        "dim": density.dim,
        "kernel": kernel,
        "loss": "reverse" if population is None else "forward",
        "training": kind,
        **figures._asdict(),
        "seconds": round(seconds, 2),
        "seconds_of_training": round(trained - started, 2),
        "updates": int(fit.state.updates),
        "skipped_updates": fit.state.skipped,
        "density_evaluations_of_training": int(fit.state.updates) * options.batch * (options.steps + 1),
        "seed": seed,
        "steps": options.steps,
        "batch": options.batch,
        "sigma": sigma,
        "noise": options.noise,
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
    if tracked:
        _tracking.finish(tracked, finite, output)
    show(console, summary, figures, output)


def prepare(output: Path) -> None:
    """Makes the output folder and tries to write there, before any time is spent on training."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").touch()
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written, got {output}: {error}.") from error


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
