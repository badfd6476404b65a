"""What the command can train, as functions of parameters: the learned process and plain DDS, and how to choose."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from dds import estimators, learned, losses, networks, normal, ou, reversal, sampler, schedules, whitening
from dds.types import KeyArray, Normal, Params, Sampler, Scalar, State, Target


class Options(NamedTuple):
    """The options that each kind of training has its own defaults for."""

    steps: int
    updates: int
    batch: int
    learning_rate: float
    noise: float
    width: int


# Modes are learned side by side, which is quick with many steps, and they ask for many; along its own paths a network
# learns best from many paths of few steps; gates have few parameters to learn, and many steps make them good.
DEFAULTS = {
    "network": Options(steps=8, updates=2500, batch=256, learning_rate=1e-2, noise=3.7, width=64),
    "gates": Options(steps=64, updates=500, batch=128, learning_rate=3e-3, noise=2.0, width=0),
    "gates in many dimensions": Options(steps=16, updates=200, batch=32, learning_rate=3e-3, noise=2.0, width=0),
    "modes": Options(steps=16, updates=3000, batch=128, learning_rate=1e-2, noise=3.7, width=64),
    "dds": Options(steps=128, updates=2000, batch=100, learning_rate=5e-3, noise=3.7, width=64),
}

HEAD_START = 0.5
"""The effective sample size of the untrained sampler from which gates are enough."""


class Process(NamedTuple):
    """What is trained: first parameters, the sampler that they make, the way from its coordinates to ours, and back."""

    init: Callable[[KeyArray], Params]
    sampler: Callable[[Params], tuple[Sampler, Target]]
    point: Callable[[Params, State], State]
    inverse: Callable[[Params, State], State]


def learned_process(density: Target, law: Normal, options: Options, depth: int) -> Process:
    """The learned process, in the coordinates of a law."""
    whitened = whitening.whiten(density, law)
    fractions = schedules.constant(options.steps, total=options.noise)
    shape = {"width": options.width, "depth": depth, "features": 4 if options.width else 0}
    return Process(
        init=lambda key: learned.init(key, fractions, density.dim, **shape),
        sampler=lambda params: learned.sampler(params, whitened),
        point=lambda params, z: normal.reparameterise(law, normal.reparameterise(learned.coordinates(params), z)),
        inverse=lambda params, x: normal.standardise(learned.coordinates(params), normal.standardise(law, x)),
    )


def plain_process(
    density: Target, sigma: float, options: Options, depth: int, score_clip: float, stop_score: bool
) -> Process:
    """DDS as published."""
    reference = ou.process(schedules.cosine(options.steps, total=options.noise), sigma)
    prior, slope = ou.stationary(reference, density.dim), jax.grad(density.log_density)
    network = networks.mlp(
        density.dim, slope, width=options.width, depth=depth, score_clip=score_clip, stop_score=stop_score
    )

    def make(params: Params) -> tuple[Sampler, Target]:
        control = partial(network.apply, params)
        kernel = reversal.denoising_kernel(reference, control, network.tabulate(params, options.steps))
        return Sampler(prior, reference, kernel), density

    return Process(network.init, make, point=lambda _, x: x, inverse=lambda _, x: x)


def kind_of_training(key: KeyArray, density: Target, law: Normal) -> str:
    """Whether gates are enough in the coordinates of a law: the untrained sampler says so."""
    if density.dim > whitening.DENSE:
        return "gates in many dimensions"
    process = learned_process(density, law, DEFAULTS["gates"], depth=1)
    log_w, _ = many(partial(log_weight, process), process.init(key), jax.random.split(key, 1000))
    return "gates" if estimators.effective_sample_size(log_w) > HEAD_START else "network"


def log_weight(process: Process, params: Params, key: KeyArray, *, freeze_laws: bool = False) -> tuple[Scalar, Array]:
    """The log weight of a path of the sampler, and its states."""
    law, moved = process.sampler(params)
    path = sampler.sample_path(key, law, freeze_laws=freeze_laws)
    return losses.log_weight(path, law.reference, moved.log_density), path.trajectory.states


def log_weight_back(process: Process, params: Params, key: KeyArray, x: State) -> Scalar:
    """The log weight of a path noised back from a point of the target."""
    law, moved = process.sampler(params)
    path = sampler.retrace(sampler.noise_path(key, law, process.inverse(params, x)), law)
    return losses.log_weight(path, law.reference, moved.log_density)


def many(one: Callable[..., Any], params: Params, *inputs: Array) -> Any:
    """A function of parameters and of each of many inputs, compiled, in batches that bound the memory."""
    return jax.jit(lambda params, inputs: jax.lax.map(lambda x: one(params, *x), inputs, batch_size=1000))(
        params, inputs
    )
