"""Paths on several devices, which a CPU can act as, and in several processes: as on one, to rounding."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import two_processes

import dds
from dds import compiling, devices, families, losses, modes, replay, resampling, schedules, smc, targets, training
from dds.types import Normal

TARGET = targets.funnel(3)
FAMILY = families.learned(TARGET.log_density, schedules.constant(4, total=2.0), TARGET.dim, width=8)
WIDE = Normal(jnp.zeros(2), jnp.array(3.0))
BALANCED = families.with_potentials(FAMILY, TARGET.log_density)
OPTIMISER = optax.adam(0.01)
REVERSE = partial(losses.reverse_kl, log_density=TARGET.log_density, paths=10)


def beside_paths(sampler, key):
    """A loss of which a part has nothing to do with paths."""
    return REVERSE(sampler, key) + jnp.sum((sampler.coordinates.mean - 1) ** 2)


def looped(x):
    """A density with a loop that starts from a constant, and with an array of its own."""
    parts = jnp.arange(1.0, 3.0)
    total, _ = jax.lax.scan(lambda sum, one: (sum - one * jnp.sum((x - 1) ** 2), None), jnp.zeros(()), parts)
    return jnp.logaddexp(total, -2 * jnp.sum((x + 3) ** 2))


def figures(whole):
    """What depends on paths, on the devices in use."""
    if whole:
        result = dds.sample(jax.random.key(3), looped, 2, scale=3.0, paths=100)
        return {"sample": result.samples, "log_z": result.log_z, "draw": dds.draw(jax.random.key(4), result, 30)}
    found = {}
    points = jax.random.normal(jax.random.key(5), (7, 3))
    with_gradient = {
        "reverse": REVERSE,
        "forward": partial(losses.forward_kl, log_density=TARGET.log_density, points=points, paths=10),
        "variance": partial(losses.log_variance, log_density=TARGET.log_density, paths=10),
        "beside": beside_paths,
    }
    for name, loss in with_gradient.items():
        found[name] = training.fit(jax.random.key(0), FAMILY, loss, OPTIMISER, 10).losses
    sampler = BALANCED.sampler(BALANCED.init(jax.random.key(6)))
    buffer = replay.start(jax.random.key(7), sampler, TARGET.log_density, 21)
    balance = replay.replayed(losses.sub_trajectory_balance, log_density=TARGET.log_density, paths=10)
    found["balance"] = training.fit(jax.random.key(0), BALANCED, balance, OPTIMISER, 10, memory=buffer).losses
    along = resampling.along_path(jax.random.key(8), sampler, TARGET.log_density, 50, ess_threshold=0.9)
    found["along"] = along.log_weights
    particles = smc.temper(jax.random.key(1), looped, WIDE, 50)
    return found | {
        "points": particles.points,
        "modes": modes.search(jax.random.key(2), looped, WIDE, starts=65).points,
    }


def run(script, *arguments, **environment):
    command = [sys.executable, Path(__file__).with_name(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["whole", "parts"])
@pytest.mark.parametrize("count", [2, 4])
def test_as_on_one_device(count, whole):
    # In double precision, so that rounding decides no move and no climb.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    environment = {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "1", "NPROC": str(8 * count)}
    with run("test_devices.py", count, whole, **environment) as process:
        one, several = json.loads(process.communicate(timeout=300)[0])
    assert len(one) > 5
    np.testing.assert_allclose(several, one, rtol=1e-6, atol=1e-6)


def both(folder, dies=()):
    """Runs two processes as a launcher does, which ends the other if one dies; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    pair = [run("two_processes.py", folder, 0, port), run("two_processes.py", folder, 1, port, *dies)]
    try:
        if pair[1].wait(timeout=200) == 0:
            pair[0].wait(timeout=200)
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    return [process.returncode for process in pair]


@pytest.mark.slow
def test_two_processes_train_and_go_on_where_one_died(tmp_path):
    assert both(tmp_path / "whole") == [0, 0]
    first, second = (np.load(tmp_path / f"whole/{process}.npy") for process in (0, 1))
    np.testing.assert_array_equal(first, second)
    family, loss, optimiser = two_processes.what()
    alone = training.fit(jax.random.key(0), family, loss, optimiser, two_processes.UPDATES).params
    np.testing.assert_allclose(first, jax.flatten_util.ravel_pytree(alone)[0], rtol=1e-3, atol=1e-4)
    assert both(tmp_path / "died", dies=[20])[1] == -signal.SIGKILL
    assert not (tmp_path / "died/0.npy").exists()
    assert both(tmp_path / "died") == [0, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "died/0.npy"), first)


@pytest.mark.parametrize(("given", "threads"), [({}, "1" if compiling.STARVING else "None"), ({"NPROC": "3"}, "3")])
def test_one_thread_computes_unless_more_are_asked_for(given, threads):
    command = [sys.executable, "-c", "import os, dds; print(os.environ.get('NPROC'))"]
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"} | given
    assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout.strip() == threads


@pytest.mark.slow
def test_cores_do_not_wait_for_each_other_in_solves():
    # With jaxlib 0.10 and a pool of two threads, three runs of three ended in a wait for ever.
    program = """
import jax, jax.numpy as jnp, numpy as np
from dds import coordinates, normal
squares = np.subtract.outer(*2 * [np.linspace(0, 5, 30)]) ** 2
def log_density(x):
    factor = jnp.linalg.cholesky(jnp.exp(x[0] - squares / 2) + (0.01 + jnp.exp(x[1])) * jnp.eye(30))
    half = jnp.linalg.solve(factor, jnp.sin(jnp.arange(30.0)))
    return -half @ half / 2 - jnp.sum(jnp.log(jnp.diag(factor))) - x @ x / 2
for i in range(40):
    fit, _ = coordinates.fit_from(jax.random.key(i), log_density, normal.Normal(jnp.zeros(3), jnp.eye(3)))
print(float(fit.mean[2]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=250)
    assert abs(float(ran.stdout)) < 0.1, ran.stderr


def test_devices_that_could_wait_for_each_other_for_ever_are_refused():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    program = (
        "import jax, dds.devices as devices; devices.STARVING = True\n"
        "with devices.using(): print(devices.program(lambda x: x + 1)(1.0).sharding.device_set)\n"
        "devices.using(2).__enter__()"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": flags, "NPROC": "2"})
    assert ran.stdout == "{CpuDevice(id=0)}\n"
    assert "devices must be one, with jaxlib 0.10, or the environment variable NPROC at least 4" in ran.stderr


@pytest.mark.parametrize("wrong", [0, 100, []])
def test_devices_that_are_not_there(wrong):
    with pytest.raises(ValueError, match="devices must be"):
        dds.sample(jax.random.key(0), lambda x: -x @ x, 2, devices=wrong)


def test_one_device_by_name_and_those_in_use():
    with devices.using(jax.devices()[:1]), devices.using():
        assert devices.program(devices.share(lambda x: x + 1))(jnp.arange(3)).tolist() == [1, 2, 3]


if __name__ == "__main__":
    several = []
    for count in (1, int(sys.argv[1])):
        with devices.using(count):
            found = figures(sys.argv[2] == "whole")
        several.append(jax.flatten_util.ravel_pytree(found)[0].tolist())
    print(json.dumps(several))
