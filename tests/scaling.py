"""Times and memory of training and drawing on this machine: `python tests/scaling.py`, which is `nox -s scaling`.

Each row is a process of its own, whose record is kept in `docs/scaling.json` under the name of the device: started
again, it goes on with those that are not there yet. In the end it writes the page `docs/scaling.md`, from the records
of all machines (`--table`: only that). On a CPU it also compares one core, two cores and two devices; `--gpu` asks for
a GPU, and says so if there is none.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dds
from dds import choices, families, losses, paths, schedules, targets, training
from dds.types import Sampler

DOCS = Path(__file__).parents[1] / "docs"
BASE = {"steps": 64, "batch": 4096, "width": 64, "dim": 10}
SPREAD = {"steps": 64, "batch": 1024, "width": 64, "dim": 10, "updates": 240}
MILLION = 10**6


def rows(platform: str) -> list[dict]:
    """What is measured: one number of the base changed at a time; and on a CPU how cores and devices are used."""
    changed = [{}, {"steps": 16}, {"steps": 256}, {"batch": 512}, {"batch": 32768}, {"width": 256}, {"dim": 100}]
    measured = [{"what": "ceilings"}, *({"what": "update", **BASE, **change} for change in changed)]
    measured += [{"what": "draw", "count": MILLION, "dim": 10}, {"what": "steps", "steps": 1000, "batch": 300}]
    measured += [{"what": "digits", "precision": precision} for precision in ("default", "highest")]
    if platform == "cpu":
        measured = [row for row in measured if row.get("batch") != 32768 and row.get("steps") != 256]
        measured += [{"what": "dimensions", "dim": dim} for dim in (1000, 10_000)]
        measured += [
            {"what": "spread", **SPREAD, "cores": cores, "devices": count} for cores, count in ((1, 1), (2, 1), (2, 2))
        ]
        measured += [{"what": "first", "cached": cached} for cached in (False, True)]
    return measured


def funnel(steps: int, width: int, dim: int):
    """A learned sampler of the funnel, its parameters a little off where they start, so that nothing is zero."""
    target = targets.funnel(dim)
    family = families.learned(target.log_density, schedules.cosine(steps, total=3.7), dim, width=width)

    def moved(x):
        return x + 0.01 * jax.random.normal(jax.random.key(1), jnp.shape(x), jnp.result_type(x))

    return target, family, jax.tree.map(moved, family.init(jax.random.key(0)))


def update(steps: int, batch: int, width: int, dim: int, updates: int = 30) -> dict:
    """Milliseconds of an update, without the first block; seconds until that; and the arithmetic of the products."""
    target, family, params = funnel(steps, width, dim)
    loss = partial(losses.reverse_kl, log_density=target.log_density, paths=batch)
    times = [time.perf_counter()]
    record = {"block": updates // 3, "callback": lambda *_: times.append(time.perf_counter())}
    fit = training.fit(jax.random.key(2), family, loss, optax.adam(1e-4), updates, params=params, **record)
    seconds = (times[-1] - times[1]) / (2 * (updates // 3))
    weights = sum(leaf.size for leaf in [*params["layers"], params["heads"]])
    # Forward, forward again, and two products backward; a multiplication and an addition for each weight.
    return {
        "milliseconds": 1e3 * seconds,
        "first_block": times[1] - times[0],
        "gflops": 4 * 2 * weights * batch * steps / seconds / 1e9,
        "loss": float(fit.losses[-1]),
    }


def spread(cores: int, devices: int, **numbers: int) -> dict:
    """The same on some cores and devices: a whole training, compilation included."""
    started = time.perf_counter()
    with dds.devices.using(devices):
        figures = update(**numbers)
    return figures | {"whole": time.perf_counter() - started}


def draw(count: int, dim: int) -> dict:
    """Seconds and memory of drawing so many weighted samples of an untrained sampler of 64 steps."""
    recipe = choices.choose(jax.random.key(0), targets.funnel(dim), numbers={"updates": 1, "steps": 64}, whiten=False)
    result = dds.sample(jax.random.key(1), targets.funnel(dim), recipe=recipe, paths=1000)
    before, started = peak(), time.perf_counter()
    draws = dds.draw(jax.random.key(2), result, count)
    return {
        "seconds": time.perf_counter() - started,
        "megabytes": (peak() - before) / 1e6,
        "of_samples": (draws.samples.nbytes + draws.log_weights.nbytes) / 1e6,
    }


def steps(steps: int, batch: int) -> dict:
    """Memory of an update with many steps."""
    before = peak()
    return update(steps, batch, width=64, dim=10, updates=3) | {"megabytes": (peak() - before) / 1e6}


def dimensions(dim: int) -> dict:
    """The one call in many dimensions: a normal target with variances from 1 to 100 and known log Z."""
    scales = jnp.linspace(1.0, 10.0, dim)
    truth = dim / 2 * np.log(2 * np.pi) + float(jnp.sum(jnp.log(scales)))
    before, started = peak(), time.perf_counter()
    result = dds.sample(jax.random.key(0), lambda x: -0.5 * jnp.sum((x / scales) ** 2), dim, paths=1000)
    return {
        "seconds": time.perf_counter() - started,
        "megabytes": (peak() - before) / 1e6,
        "error": float(result.log_z.value) - truth,
        "standard_error": float(result.log_z.standard_error),
        "trusted": result.verdict.startswith("Trust"),
    }


def digits(precision: str) -> dict:
    """The largest difference of log weights from those of double precision on the CPU, on the same noise."""
    noise = np.random.default_rng(0).normal(size=(1000, 64 * 10 + 10)).astype(np.float32)
    params = jax.tree.map(np.asarray, funnel(64, 64, 10)[2])

    def weigh(dtype):
        target, family, _ = funnel(64, 64, 10)
        sampler: Sampler = family.sampler(jax.tree.map(lambda x: jnp.asarray(x, dtype), params))

        def one(e):
            return losses.log_weight(paths.path_of_noise(e, sampler), target.log_density)

        return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(noise, dtype)), np.float64)

    with jax.default_matmul_precision(precision):
        single = weigh(jnp.float32)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        double = weigh(jnp.float64)
    both = [float(np.log(np.mean(np.exp(x - x.max()))) + x.max()) for x in (single, double)]
    return {"largest": float(np.max(np.abs(single - double))), "log_z": both[0] - both[1]}


def ceilings() -> dict:
    """What the device can do: a product of large matrices, and a copy of a large array."""
    a = jnp.ones((4096, 4096), jnp.float32)
    b = jnp.ones(2**26, jnp.float32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda b: b + 1)
    return {"gflops": 2 * 4096**3 / fastest(product, a) / 1e9, "gigabytes": 2 * b.nbytes / fastest(copy, b) / 1e9}


def first(cached: bool) -> dict:
    """Seconds from the start of the command to its first update; cached: where the compiled programs are kept."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / "dds-scaling-cache"
    keep = {"XDG_CACHE_HOME": str(folder)} if cached else {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "dds", "funnel", "--train", "--updates", "25", "--no-pictures"]
    command += ["--output", str(folder / "output")]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | keep
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    if cached:
        subprocess.run(command, check=True, **quiet)
    began = time.time()
    with subprocess.Popen(command, **quiet) as process:
        checkpoint = folder / "output/checkpoint.npz"
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime > began):
            time.sleep(0.05)
        seconds = time.time() - began
        process.kill()
    return {"seconds": seconds}


def fastest(function, argument) -> float:
    jax.block_until_ready(function(argument))
    times = []
    for _ in range(10):
        started = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - started)
    return min(times)


def peak() -> float:
    """Bytes: the most that the device has held, where it says so, else the process."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


HEAD = """---
hide: [navigation, toc]
---

# Speed and memory

Measured by `nox -s scaling`, each row in a process of its own. An update is one of the reverse KL on the funnel, by the
learned sampler with a network of two hidden layers, without compilation. The arithmetic is that of the products with
the weights alone. The ceilings are a product of two 4096 x 4096 matrices and a copy of 256 MiB on the same device.
How to use several devices or processes stands on [another page](how-to/devices.md).

At a width of 64 the products are the smaller part of an update: activations, random numbers and what goes from step to
step take the rest. Wider networks come nearer to the ceiling. No GPU was at
hand yet; `nox -s gpu` adds its rows.
"""


def page(records: dict[str, list[dict]]) -> str:
    """The page of all machines."""
    parts = [HEAD]
    for device, measured in records.items():
        of = {what: [row for row in measured if row["what"] == what] for what in {row["what"] for row in measured}}
        top = of["ceilings"][0]
        parts.append(f"## {device}\n\nCeilings: {top['gflops']:,.0f} GFLOP/s, {top['gigabytes']:,.0f} GB/s.\n")
        parts.append("| steps | batch | width | dim | ms per update | GFLOP/s | share of the ceiling | peak MB |")
        parts.append("|---|---|---|---|---|---|---|---|")
        for row in of.get("update", []):
            numbers = " | ".join(f"{row[name]:,}" for name in BASE)
            share = f"{row['gflops']:,.0f} | {row['gflops'] / top['gflops']:.0%}"
            parts.append(f"| {numbers} | {row['milliseconds']:,.0f} | {share} | {row['peak']:,.0f} |")
        parts.append("\n| what | seconds | MB besides what was there |\n|---|---|---|")
        for row in of.get("draw", []):
            name = f"{row['count']:,} samples of 64 steps in {row['dim']} dimensions ({row['of_samples']:.0f} MB)"
            parts.append(f"| {name} | {row['seconds']:.0f} | {row['megabytes']:,.0f} |")
        for row in of.get("steps", []):
            name = f"an update with {row['steps']:,} steps and {row['batch']} paths"
            parts.append(f"| {name} | {row['milliseconds'] / 1e3:.2f} | {row['megabytes']:,.0f} |")
        for row in of.get("dimensions", []):
            error = f"log Z off by {row['error']:.3f} ± {row['standard_error']:.3f}"
            trusted = "trusted" if row["trusted"] else "not trusted"
            name = f"`dds.sample` of a normal target in {row['dim']:,} dimensions ({error}, {trusted})"
            parts.append(f"| {name} | {row['seconds']:.0f} | {row['megabytes']:,.0f} |")
        for row in of.get("first", []):
            kept = "with the programs of a run before" if row["cached"] else "nothing compiled before"
            parts.append(f"| from the start of the command to its first 25 updates, {kept} | {row['seconds']:.0f} | |")
        if "spread" in of:
            columns = "ms per update | times as fast | s, a training of 240 updates | times as fast"
            parts.append(f"\n| cores | devices | {columns} |\n|---|---|---|---|---|---|")
            alone = of["spread"][0]
            for row in of["spread"]:
                pairs = (f"{row[name]:.0f} | {alone[name] / row[name]:.2f}" for name in ("milliseconds", "whole"))
                parts.append(f"| {row['cores']} | {row['devices']} | {' | '.join(pairs)} |")
        parts.append("\n| digits of products | largest error of a log weight | error of log Z |\n|---|---|---|")
        for row in of.get("digits", []):
            parts.append(f"| {row['precision']} | {row['largest']:.1e} | {row['log_z']:.1e} |")
        parts.append("")
    return "\n".join(parts)


def name_of_device() -> str:
    device = jax.devices()[0]
    return f"{os.cpu_count()} cores of a CPU" if device.platform == "cpu" else device.device_kind


def measured(row: dict) -> dict:
    """The record of a row, of a process of its own."""
    environment = dict(os.environ)
    if row.get("devices", 1) > 1:
        flags = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={row['devices']}"
        environment |= {"XLA_FLAGS": flags, "NPROC": str(2 * row["devices"])}  # see dds.compiling.STARVING
    command = [sys.executable, __file__, "--row", json.dumps(row)]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return row | json.loads(text.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--row", type=json.loads)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.row is not None:
        what = options.row.pop("what")
        if "cores" in options.row:  # before JAX starts its threads
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.row["cores"]])
        figures = globals()[what](**options.row)
        print(json.dumps(figures | {"peak": peak() / 1e6}))
        return
    kept = DOCS / "scaling.json"
    records = json.loads(kept.read_text()) if kept.exists() else {}
    if not options.table:
        platform = jax.devices()[0].platform
        if options.gpu and platform == "cpu":
            sys.exit("there is no GPU that JAX can use here: nothing is measured")
        mine = records.setdefault(name_of_device(), [])
        for row in rows(platform):
            if not any(row.items() <= record.items() for record in mine):
                mine.append(measured(row))
                print(mine[-1], flush=True)
                kept.write_text(json.dumps(records, indent=1) + "\n")
    (DOCS / "scaling.md").write_text(page(records))


if __name__ == "__main__":
    main()
