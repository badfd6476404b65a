"""Samplers and losses of the field on the same targets: `python tests/field.py`, which is `nox -s field`.

Every method has the same steps, paths, updates and optimiser, and starts from the same distribution: none is tuned.
Figures are taken on the way, so that methods can be compared at equal evaluations of the density and at equal CPU
seconds; the time that the figures themselves take is left out. Each target, method and seed is a process on a core of
its own, whose record is kept in `docs/field.json`: started again, it goes on with those that are not there yet. In the
end it writes `docs/field.md`, also from what is there so far (`--table`: only that).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compare import row, run

import dds
from dds import (
    choices,
    distances,
    estimators,
    families,
    losses,
    networks,
    normal,
    paths,
    probability_flow,
    replay,
    resampling,
    schedules,
    targets,
    training,
)
from dds.types import Family, Normal, Sampler, Target

DOCS = Path(__file__).parents[1] / "docs"
TARGETS = ("funnel", "many_well", "forty_modes")
STEPS, BATCH, POINTS = 64, 128, (250, 500, 1000, 2000)
SECONDS = 60  # for the table of equal time
DIVERGED = 1e4  # an error of log Z, or a gap of a bound
EVALUATED, CHUNK = 4000, 1000
BALANCES = {
    "reverse KL": losses.reverse_kl,
    "log-variance": losses.log_variance,
    "balance": losses.trajectory_balance,
}


LOSSES = BALANCES | {"adjoint": losses.adjoint_matching}


def make_dds(target: Target, place: Normal) -> Family:
    network = networks.mlp(target.dim, score_of(target, place))
    return families.dds(network, schedules.cosine(STEPS, total=3.7), place)


def make_pis(target: Target, place: Normal) -> Family:
    return families.pis(networks.mlp(target.dim, score_of(target, place)), STEPS, place)


def make_pis_without_score(target: Target, place: Normal) -> Family:
    return families.pis(networks.mlp(target.dim, jnp.zeros_like), STEPS, place)


def make_underdamped(target: Target, place: Normal) -> Family:
    score, length = score_of(target, place), 4 / STEPS
    network = networks.mlp(target.dim, lambda y: score(y[: target.dim]), inputs=2 * target.dim)
    return families.underdamped(network, jnp.full(STEPS, 2 * length), jnp.full(STEPS, length), place)


def make_cmcd(target: Target, place: Normal) -> Family:
    network = networks.mlp(target.dim, lambda y: jnp.zeros_like(y))
    return families.cmcd(network, schedules.constant(STEPS, total=1.0), target.log_density, place)


def make_learned(target: Target, place: Normal) -> Family:
    return families.learned(target.log_density, schedules.constant(STEPS, total=3.7), place)


def score_of(target: Target, place: Normal) -> Callable[[jax.Array], jax.Array]:
    return jax.grad(normal.pull_back(place, target.log_density))


FAMILIES = {"DDS": make_dds, "PIS": make_pis, "underdamped": make_underdamped, "CMCD": make_cmcd}
OTHERS = {"learned": make_learned, "PIS without score": make_pis_without_score}
LADDER = "dds.sample"
METHODS = (
    *(f"{family}, {loss}" for family in FAMILIES for loss in BALANCES),
    "DDS, balance, buffer",
    "DDS, adjoint",
    "DDS, adjoint, buffer",
    "PIS without score, adjoint, buffer",
    "learned, reverse KL",
    LADDER,
)


def one(name: str, method: str, seed: int) -> dict:
    """One run in this process: its figures on the way."""
    target = getattr(targets, name)()
    if method == LADDER:
        result = dds.sample(jax.random.key(seed), target._replace(log_z=None, sample=None))
        seconds = round(time.process_time(), 1)
        figures = evaluator(lambda _: result.sampler, target)((), jax.random.key(1000 + seed))
        figures |= {"log_z": float(result.log_z.value), "claimed": float(result.log_z.standard_error)}
        figures |= {"evaluations": result.evaluations, "seconds": seconds}
        return {"way": [figures], "trusted": result.verdict.startswith("Trust")}
    family, loss, memory = training_of(method, target, seed)
    # Without the score, the density is asked where a path ends: for its weight and for its adjoints.
    each = 2 if "without score" in method else STEPS + 2
    # The guess of log Z has far to go, and is one number: a rate of its own, as is usual.
    rates = {"log_z": optax.adam(0.1), "rest": optax.adam(optax.cosine_decay_schedule(3e-3, POINTS[-1], 0.1))}
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(rates, labels))
    evaluate, way, aside = evaluator(family.sampler, target), [], 0.0

    def callback(state: training.TrainingState, _) -> None:
        nonlocal aside
        if int(state.updates) in POINTS:
            seconds, before = time.process_time() - aside, time.process_time()
            updates = int(state.updates)
            record = {"updates": updates, "evaluations": updates * BATCH * each, "seconds": round(seconds, 1)}
            way.append(record | evaluate(state.params, jax.random.key(1000 + seed)))
            aside += time.process_time() - before

    options = {"memory": memory, "block": POINTS[0], "callback": callback}
    run = training.fit(jax.random.key(seed), family, loss, optimiser, POINTS[-1], **options)
    last = {"skipped": run.state.skipped}
    if method.startswith("CMCD"):
        sampler = family.sampler(run.params)
        along = resampling.along_path(jax.random.key(2000 + seed), sampler, target.log_density, EVALUATED)
        last |= {"log_z_along": float(along.log_z.value), "resampled": int(along.resampled)}
    if method.startswith("DDS"):
        last |= by_flow(family.sampler(run.params), target, jax.random.key(3000 + seed))
    return {"way": way, **last}


def by_flow(sampler: Sampler, target: Target, key: jax.Array) -> dict:
    """log Z by the probability flow of the same sampler."""

    @jax.jit
    @jax.vmap
    def one(key):
        drawn = probability_flow.draw(key, sampler)
        return target.log_density(drawn.x) - drawn.log_density, drawn.folded

    parts = [one(keys) for keys in jax.random.split(key, EVALUATED).reshape(-1, CHUNK)]
    log_w, folded = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    log_w = jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)
    return {"log_z_flow": float(estimators.log_z(log_w).value), "folded": float(jnp.mean(folded))}


def training_of(method: str, target: Target, seed: int):
    """What is trained, the loss, and its memory."""
    kind, name, *buffer = method.split(", ")
    place = choices.starting_point(target)
    family = families.with_potentials((FAMILIES | OTHERS)[kind](target, place), target.log_density)
    finite = losses.with_finite_gradient(target.log_density)
    if not buffer:
        return family, partial(LOSSES[name], log_density=finite, paths=BATCH), ()
    first = family.sampler(family.init(jax.random.key(seed)))
    memory = replay.start(jax.random.key(seed), first, target.log_density, 10_000)
    return family, replay.replayed(LOSSES[name], log_density=finite, paths=BATCH), memory


def labels(params):
    return {
        name: jax.tree.map(lambda _, name=name: "log_z" if name == "log_z" else "rest", params[name]) for name in params
    }


def evaluator(make: Callable[[Any], Sampler], target: Target) -> Callable[[Any, jax.Array], dict]:
    """Figures of a sampler, of its own paths and of paths noised from exact samples: a function of parameters."""

    def own(sampler, key):
        path = paths.sample_path(key, sampler)
        return losses.log_weight(path, target.log_density), path.x

    def back(sampler, key):
        sample_key, noise_key = jax.random.split(key)
        path = paths.noise_path(noise_key, sampler, target.sample(sample_key))
        return losses.log_weight(path, target.log_density)

    @jax.jit
    def chunk(params, keys):
        sampler = make(params)
        return [jax.vmap(partial(function, sampler))(keys) for function in (own, back)]

    def evaluate(params: Any, key: jax.Array) -> dict:
        parts = [chunk(params, keys) for keys in jax.random.split(key, EVALUATED).reshape(-1, CHUNK)]
        (log_w, x), log_v = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        usable = jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)
        return {
            "log_z": float(estimators.log_z(usable).value),
            "elbo": float(jnp.mean(log_w)),
            "eubo": float(jnp.mean(log_v)),
            "ess": float(estimators.effective_sample_size(usable)),
            "forward_ess": float(estimators.forward_effective_sample_size(log_v)),
            "coverage": coverage(target, np.asarray(x)),
        }

    return evaluate


def coverage(target: Target, x: np.ndarray) -> float:
    """How evenly the modes of a target are visited by unweighted samples: the entropy of their shares over its most.

    Of the many-well density the mean over its copies; of the funnel the standard deviation of v over 3.
    """
    if target.dim == 10:
        return float(np.std(x[:, 0]) / 3)
    if target.dim == 2:
        return float(distances.entropic_coverage(distances.mode_shares(x, targets.forty_modes_means())))
    right = np.mean(x[:, ::2] > 0, axis=0)
    return float(np.mean([distances.entropic_coverage(np.array([p, 1 - p])) for p in right]))


HEAD = f"""---
hide: [navigation, toc]
---

# The field

Samplers and losses of the field, on the same targets, by `nox -s field`: {STEPS} steps, batches of {BATCH} paths,
{POINTS[-1]:,} updates by Adam at 3e-3 (0.1 for the guess of log Z), starting from the `start` of the target. Nothing is
tuned to a method or a target, so this compares methods as they come, and not the best that each can do.
`dds.sample` is the library's default, which need not train.

Figures are of {EVALUATED:,} paths, medians over seeds with their range. *Coverage* is of unweighted samples, and is 1
at best: the entropy of the shares of modes over that of equal shares (for the many-well density in its own copies,
where the best is 0.63); for the funnel the standard deviation of v over 3. The records are in `field.json`.

Each method is a [family](api/families.md) and a [loss](api/losses.md), "balance" that of trajectories, "adjoint" that
of adjoint matching; the [buffer](how-to/origins.md) and [the two other ways](how-to/resampling.md) to use a sampler
have pages of their own.

"""
NOTES = """
## What it shows, and where it falls short

- The budget is small and nothing is tuned: the published figures on the first two targets are of 11,000 updates of 300
  paths and more, with parameters chosen for the target, and none of the published methods comes up to them here. The
  learned sampler, this library's own, nearly does on the many-well density.
- On the forty modes DDS by log-variance or balance is well within the published EUBO of 0.88. By the reverse KL it
  diverges: its gradient goes through all steps, and the scores of narrow modes, in coordinates as wide as these, are
  too steep for that. CMCD diverges there by two of three losses: its Langevin steps have one length for all targets.
- Trajectory balance starts from a guess of 0 for log Z. On the many-well density, with log Z of 164.7, CMCD does not
  recover from that within these updates. A guess from the weights of the untrained sampler was tried, and is no cure:
  it is far above what its typical path has, and underdamped DDS diverged.
- The buffer makes little difference where the start reaches all modes.
- Adjoint matching comes out between the other losses. On the many-well density it has the smallest EUBO of all that
  train but the learned sampler, for it visits left and right alike, as the start does and the target does not. A
  buffer, chosen from by weight, does harm there: where weights are worth little these are few points, and this loss
  sees no weights that could set it right.
- Without the score in the network adjoint matching takes a thirty-third of the evaluations. On the funnel that does
  about as well as the rest with fixed noise, and on neither of the targets with many modes, at so few updates. Its CPU
  seconds, and those of the other two by adjoint matching, are of a machine with both cores busy: a third too many.
- On the funnel all samplers with fixed noise leave out the mouth: a coverage near 0.5, and a huge EUBO. The probability
  flow of DDS agrees with its paths to some hundredths there, and both are wrong.
- Where a sampler is bad, resampling on the way does not mend it.
- `dds.sample` trains on none of the three.
- Where fewer than three seeds are given, the others were not run yet.
"""
PUBLISHED = {
    "funnel": "Published: DDS tuned on this target, 11,000 updates of 300 paths, log Z -0.206 ± 0.059 with 64 steps "
    "(Vargas, Grathwohl and Doucet, 2023); the best ELBO found, -0.058, is of a learned bridge with a Gaussian-mixture "
    "prior.",
    "many_well": "Published: ELBO 162.84 and EUBO 166.30 with 64 steps, by trajectory balance with an "
    "importance-weighted buffer.",
    "forty_modes": "Published: EUBO 0.88 by trajectory balance with an importance-weighted buffer; 159 for DDS.",
}


def spread(records: list[dict], name: str, at: Callable[[dict], dict | None], truth: float = 0.0) -> str:
    """Median and range over seeds; what is not finite, or far from all that could be of use, has diverged."""
    values = [step[name] for record in records if (step := at(record)) is not None]
    usable = sorted(value - truth for value in values if value is not None and abs(value - truth) < DIVERGED)
    if not values:
        return ""
    lost = f"diverged: {len(values) - len(usable)} of {len(values)}" if len(usable) < len(values) else ""
    if not usable:
        return lost
    digits = 3 if max(map(abs, usable)) < 10 else 1
    some = f"{np.median(usable):.{digits}f}"
    some += f" ({usable[0]:.{digits}f} to {usable[-1]:.{digits}f})" if len(usable) > 1 else ""
    return f"{some}, {lost}" if lost else some


def plain(tree: Any) -> Any:
    """Numbers that JSON has not, as none."""
    return jax.tree.map(lambda x: None if isinstance(x, float) and not np.isfinite(x) else x, tree)


def last(record: dict) -> dict | None:
    return record["way"][-1]


def in_time(record: dict) -> dict | None:
    """The figures at the last point within the time."""
    return next((step for step in reversed(record["way"]) if step["seconds"] <= SECONDS), None)


def table(records: list[dict]) -> str:
    pages = [HEAD + PICTURE]
    for name in TARGETS:
        mine = [record for record in records if record["target"] == name]
        if not mine:
            continue
        truth = getattr(targets, name)().log_z
        pages.append(f"## {name}\n\nThe true log Z is {truth:.4f}. {PUBLISHED[name]}\n\n{picture(name, truth)}\n")
        head = [
            "method",
            "seeds",
            "error of log Z",
            "ELBO",
            "EUBO",
            "ESS",
            "coverage",
            "CPU s",
            f"ELBO within {SECONDS} CPU s",
        ]
        lines = [row(head), row(["---"] * len(head))]
        for method in METHODS:
            runs = [record for record in mine if record["method"] == method]
            whole = [record for record in runs if "failed" not in record]
            if not runs:
                continue
            cells = [spread(whole, "log_z", last, truth), *(spread(whole, x, last) for x in ("elbo", "eubo", "ess"))]
            cells += [spread(whole, "coverage", last), spread(whole, "seconds", last), spread(whole, "elbo", in_time)]
            lines.append(row([method, str(len(whole)), *(cells if whole else ["failed", *[""] * 6])]))
        pages.append("\n".join(lines) + "\n")
        others = {"CMCD": "log_z_along", "DDS": "log_z_flow"}
        lines = [row(["the same sampler", "another way", "error of log Z so", "as above"]), row(["---"] * 4)]
        for method in METHODS:
            runs = [record for record in mine if record["method"] == method]
            kind = method.split(", ")[0]
            if kind in others and (runs := [record for record in runs if others[kind] in record]):
                way = {"CMCD": "resampled on the way", "DDS": "probability flow"}[kind]
                so = spread(runs, others[kind], lambda record: record, truth)
                folded = max(record.get("folded", 0.0) for record in runs)
                so = f"{so}; steps too long in {100 * folded:.0f} % of the samples" if folded > 0.005 else so
                lines.append(row([method, way, so, spread(runs, "log_z", last, truth)]))
        pages.append("\n".join(lines) + "\n")
    return "\n".join([*pages, NOTES])


PICTURE = """```python hide
import json
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

records = json.loads((Path(os.environ["DDS_DOCS"]) / "field.json").read_text())


def draw(target, truth):
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("elbo", "eubo"), strict=True):
        mine = [
            record
            for record in records
            if record["target"] == target and "way" in record
        ]
        for method in sorted(
            {record["method"] for record in mine}, key=str.lower
        ):
            ways = [
                record["way"] for record in mine if record["method"] == method
            ]
            bounds = np.array(
                [[step[name] for step in way] for way in ways], float
            )
            gaps = np.maximum(np.abs(np.median(bounds, axis=0) - truth), 1e-3)
            style = next(
                style for word, style in STYLES.items() if word in method
            )
            colour = f"C{[kind in method for kind in KINDS].index(True)}"
            axes.plot(
                [step["evaluations"] for step in ways[0]],
                gaps,
                style,
                color=colour,
                label=method,
            )
        title = f"gap of the {name.upper()}"
        axes.set(
            xscale="log",
            yscale="log",
            ylim=(1e-2, 1e4),
            xlabel="evaluations of the density",
            title=title,
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=7,
    )
    return figure


KINDS = ("DDS", "PIS", "underdamped", "CMCD", "learned", "dds.sample")
STYLES = {
    "adjoint, buffer": "s-.",
    "adjoint": "s:",
    "reverse": "-",
    "variance": "--",
    "buffer": "-.",
    "balance": ":",
    "dds.sample": "*",
}
```
"""


def picture(name: str, truth: float) -> str:
    """The block of the page that draws the gaps of both bounds against evaluations."""
    alt = f"Gap of the ELBO and of the EUBO to log Z for each method on {name}, against evaluations of the density"
    return f'```python hide alt="{alt}"\ndraw("{name}", {truth:.6f})\n```'


def line(record: dict) -> str:
    begin = f"{record['target']:12s} {record['method']:26s} {record['seed']}"
    if "failed" in record:
        return f"{begin} FAILED: {record['failed']}"
    end = record["way"][-1]
    return f"{begin} {', '.join(f'{name} {end[name]}' for name in ('log_z', 'elbo', 'eubo', 'ess'))}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS, metavar="TARGET")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="write the table of what is there, and run nothing")
    parser.add_argument("--one", nargs=4, metavar=("TARGET", "METHOD", "SEED", "CORE"), help="one run, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        name, method, seed, core = arguments.one
        os.sched_setaffinity(0, [int(core)])
        print(json.dumps(one(name, method, int(seed))))
        sys.exit()
    path, started = DOCS / "field.json", time.monotonic()
    records = json.loads(path.read_text()) if path.exists() else []
    done = {(record["target"], record["method"], record["seed"]) for record in records}
    seeds, names, methods = range(arguments.seeds), arguments.targets, arguments.methods
    grid = [(name, method, seed) for seed in seeds for name in names for method in methods]
    waiting = [] if arguments.table else [cell for cell in grid if cell not in done]
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def on_a_core(cell: tuple[str, str, int]) -> dict:
        core = cores.get()
        record = run(*cell, core, script=__file__)
        cores.put(core)
        return record

    with ThreadPoolExecutor(cores.qsize()) as pool:
        for i, record in enumerate(pool.map(on_a_core, waiting), start=1):
            records.append(plain(record))
            path.write_text(json.dumps(records, indent=1) + "\n")
            left = (time.monotonic() - started) / i * (len(waiting) - i) / 60
            print(f"{line(record)}; about {left:.0f} minutes left", flush=True)
    (DOCS / "field.md").write_text(table(records))
