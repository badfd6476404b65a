"""The command: `python -m dds funnel` trains a sampler, reports on it and draws it.

It composes the library's functions as any user would; nothing imports it.
"""

import json
import math
import sys
import time
from collections.abc import Callable
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

from dds import (
    estimators,
    exploration,
    learned,
    losses,
    networks,
    normal,
    ou,
    reversal,
    sampler,
    schedules,
    storage,
    training,
    whitening,
)
from dds._named import NAMED, find_target
from dds._presentation import paint, show, watch
from dds.checks import require
from dds.report import report, verdict
from dds.types import OU, KeyArray, Network, Normal, Params, Sampler, Scalar, State, Target


class Defaults(NamedTuple):
    """The options that each kind of training has its own defaults for."""

    steps: int
    updates: int
    batch: int
    learning_rate: float


# The forward loss is quick with many steps, for they are trained side by side, and modes ask for them; the reverse loss
# has a gradient of less variance with many paths.
DEFAULTS = {
    ("learned", "reverse"): Defaults(steps=8, updates=2500, batch=256, learning_rate=1e-2),
    ("learned", "forward"): Defaults(steps=16, updates=3000, batch=128, learning_rate=1e-2),
    ("dds", "reverse"): Defaults(steps=128, updates=2000, batch=100, learning_rate=5e-3),
}


class Process(NamedTuple):
    """What is trained: first parameters, the sampler that they make, the way from its coordinates to ours, and back."""

    init: Callable[[KeyArray], Params]
    sampler: Callable[[Params], tuple[Sampler, Target]]
    point: Callable[[Params, State], State]
    inverse: Callable[[Params, State], State]


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
        loss: The divergence that training lowers. "reverse": along the sampler's own paths. "forward", for learned
            kernels: along paths noised back from a tempered population of points. Without it, the one that fits:
            forward where the search for coordinates finds several modes.
        steps: The number of steps K from the prior to the target: 8, or 16 with the forward loss, or 128 with dds.
        updates: The number of updates of the parameters: 2500, or 3000 with the forward loss, or 2000 with dds.
        batch: The number of paths in an update: 256, or 128 with the forward loss, or 100 with dds.
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
    require(samples >= estimators.LEAST, "samples", samples, f"at least {estimators.LEAST}")
    for name, count in {"steps": steps, "updates": updates, "batch": batch}.items():
        require(count is None or count >= 1, name, count, "at least 1")
    require(learning_rate is None or learning_rate > 0, "learning_rate", learning_rate, "positive")
    require(kernel == "learned" or loss != "forward", "loss", loss, "reverse with the dds kernel")
    sigma = (NAMED[target].sigma if target in NAMED else 1.0) if sigma is None else sigma
    require(0 < sigma < math.inf, "sigma", sigma, "positive and finite")
    schedule = schedules.constant if kernel == "learned" else schedules.cosine
    for kind, default in DEFAULTS.items():
        if kind[0] == kernel:  # whatever loss will be chosen, the schedule can be made
            schedule(steps or default.steps, total=noise)
    density, plane, labels = find_target(target, dim, sigma)
    prepare(output)
    console = Console()
    started = time.perf_counter()
    law_key, pilot_key, init_key, fit_key, draw_key, exact_key, explore_key, back_key = jax.random.split(
        jax.random.key(seed), 8
    )

    start = Normal(jnp.zeros(density.dim), jnp.asarray(sigma))
    law, population = start, None
    if kernel == "learned":
        with console.status("looking for coordinates"):
            if whiten:
                law = whitening.automatic(law_key, density.log_density, start)
            if loss is None:
                loss = "forward" if whiten and law is start else "reverse"
            if loss == "forward":
                population = exploration.temper(pilot_key, density.log_density, law, POPULATION)
                if whiten and law is start:
                    law = Normal(jnp.mean(population, axis=0), jnp.std(population, axis=0))
    choice = DEFAULTS[kernel, loss or "reverse"]
    given = {"steps": steps, "updates": updates, "batch": batch, "learning_rate": learning_rate}
    choice = choice._replace(**{name: value for name, value in given.items() if value is not None})
    if kernel == "learned":
        process = learned_process(density, law, schedule(choice.steps, total=noise), width, depth)
    else:
        reference = ou.process(schedule(choice.steps, total=noise), sigma)
        slope = jax.grad(density.log_density)
        network = networks.mlp(
            density.dim, slope, width=width, depth=depth, score_clip=score_clip, stop_score=stop_score
        )
        process = plain_process(density, reference, network)

    def log_weight(params: Params, key: KeyArray, *, freeze_laws: bool) -> tuple[Scalar, Array]:
        law, moved = process.sampler(params)
        path = sampler.sample_path(key, law, freeze_laws=freeze_laws)
        return losses.log_weight(path, law.reference, moved.log_density), path.trajectory.states

    def log_weight_back(params: Params, key: KeyArray, x: State) -> Scalar:
        law, moved = process.sampler(params)
        path = sampler.retrace(sampler.noise_path(key, law, process.inverse(params, x)), law)
        return losses.log_weight(path, law.reference, moved.log_density)

    def reverse(params: Params, key: KeyArray) -> Scalar:
        one = partial(log_weight, params, freeze_laws=True)
        return losses.reverse_kl(jax.vmap(lambda key: one(key)[0])(jax.random.split(key, choice.batch)))

    def forward(params: Params, key: KeyArray) -> Scalar:
        assert population is not None
        choose_key, noise_key = jax.random.split(key)
        x = jax.random.choice(choose_key, population, (choice.batch,))
        back = partial(log_weight_back, params)
        return losses.forward_kl(jax.vmap(back)(jax.random.split(noise_key, choice.batch), x))

    warm_up = min(100, choice.updates // 10)
    rate, length = choice.learning_rate, max(choice.updates, warm_up + 1)
    rates = optax.warmup_cosine_decay_schedule(rate / 20, rate, warm_up, length, rate / 100)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates))
    objective, bound = (reverse, "ELBO") if population is None else (forward, "EUBO")
    with watch(console, choice.updates, bound) as callback:
        fit = training.fit(
            fit_key, process.init(init_key), objective, optimiser, choice.updates, block=25, callback=callback
        )
    trained = time.perf_counter()

    def draw(params: Params, key: KeyArray) -> tuple[Scalar, State, Array]:
        log_w, states = log_weight(params, key, freeze_laws=False)
        points = jax.vmap(partial(process.point, params))(states)
        return log_w, points[-1], points[:, :2]

    log_weights, points, planes = many(draw, fit.params, jax.random.split(draw_key, samples))
    exact = forward_log_weights = None
    if density.sample is not None:
        exact = jax.jit(jax.vmap(density.sample))(jax.random.split(exact_key, samples))
        forward_log_weights = many(log_weight_back, fit.params, jax.random.split(back_key, samples), exact)
    # In many dimensions a wide start takes too long.
    wide, count = (start, EXPLORERS) if density.dim <= whitening.DENSE else (law, EXPLORERS // 10)
    elsewhere = exploration.temper(explore_key, density.log_density, wide, count, coordinates=law)
    explored = many(log_weight_back, fit.params, jax.random.split(explore_key, count), elsewhere)
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
        **figures._asdict(),
        "seconds": round(seconds, 2),
        "seconds_of_training": round(trained - started, 2),
        "updates": int(fit.state.updates),
        "skipped_updates": fit.state.skipped,
        "density_evaluations_of_training": int(fit.state.updates) * choice.batch * (choice.steps + 1),
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


def prepare(output: Path) -> None:
    """Makes the output folder and tries to write there, before any time is spent on training."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").touch()
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written, got {output}: {error}.") from error


def many(one: Callable[..., Any], params: Params, *inputs: Array) -> Any:
    """A function of parameters and of each of many inputs, compiled, in batches that bound the memory."""
    return jax.jit(lambda params, inputs: jax.lax.map(lambda x: one(params, *x), inputs, batch_size=1000))(
        params, inputs
    )


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
