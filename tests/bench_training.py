"""The time of an import, and of training: Neal's funnel in ten dimensions, batches of 300, 100 updates."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from dds import families, losses, networks, normal, schedules, targets, training
from dds.types import Normal

UPDATES, BATCH = 100, 300


@pytest.mark.parametrize("modules", ["jax, optax", "jax, optax, dds"])
def test_import(benchmark, modules):
    benchmark.pedantic(subprocess.check_call, ([sys.executable, "-c", f"import {modules}"],), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("steps", [64, 128])
@pytest.mark.parametrize("stick", [False, True], ids=["reverse_kl", "sticking_the_landing"])
def test_updates(benchmark, steps, stick):
    log_density, place = targets.funnel(10).log_density, Normal(jnp.zeros(10), jnp.array(1.075))
    network = networks.mlp(10, jax.grad(normal.pull_back(place, log_density)))
    family = families.dds(network, schedules.cosine(steps, total=3.7), place)
    loss = partial(losses.reverse_kl, log_density=log_density, paths=BATCH, stick_the_landing=stick)
    train = partial(training.fit, jax.random.key(0), family, loss, optax.adam(1e-3), UPDATES, block=UPDATES)
    run = benchmark.pedantic(train, rounds=5, warmup_rounds=1)
    assert jnp.all(jnp.isfinite(run.losses))
