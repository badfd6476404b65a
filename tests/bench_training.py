"""The time of an import, and of training: Neal's funnel in ten dimensions, 64 steps, batches of 300, 20 updates."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from dds import losses, networks, ou, reversal, sampler, schedules, targets, training
from dds.types import Sampler

UPDATES, BATCH, STEPS = 20, 300, 64


@pytest.mark.parametrize("modules", ["jax, optax", "jax, optax, dds"])
def test_import(benchmark, modules):
    benchmark.pedantic(subprocess.check_call, ([sys.executable, "-c", f"import {modules}"],), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("freeze_laws", [False, True], ids=["reverse_kl", "sticking_the_landing"])
def test_update(benchmark, freeze_laws):
    target = targets.funnel(10)
    noising = ou.process(schedules.cosine(STEPS, total=3.7), 1.075)
    prior = ou.stationary(noising, target.dim)
    network = networks.mlp(target.dim, jax.grad(target.log_density))

    def loss(params, key):
        kernel = reversal.denoising_kernel(noising, partial(network.apply, params), network.tabulate(params, STEPS))

        def log_weight(key):
            path = sampler.sample_path(key, Sampler(prior, noising, kernel), freeze_laws=freeze_laws)
            return losses.log_weight(path, noising, target.log_density)

        return losses.reverse_kl(jax.vmap(log_weight)(jax.random.split(key, BATCH)))

    train = partial(training.fit, jax.random.key(0), network.init(jax.random.key(1)), loss, optax.adam(1e-3), UPDATES)
    run = benchmark.pedantic(partial(train, block=UPDATES), rounds=5, warmup_rounds=1)
    assert jnp.all(jnp.isfinite(run.losses))
