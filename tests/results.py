"""The command with its default options on all targets: `python tests/results.py [TARGET ...]`.

Each target and seed is one run of the command, whose record is kept in `docs/results.json`: started again, it goes on
with those that are not there yet. In the end it writes `docs/results.md`, also from what is there so far
(`--table`: only that).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from dds import estimators

DOCS = Path(__file__).parents[1] / "docs"
REPEATS, PATHS = 30, 2000
POSTERIORS = ("ionosphere", "sonar", "german_credit", "seeds", "brownian", "cox_process")
# The best published figure of each, as collected by the project; the sources stand in the README.
PUBLISHED = {
    "funnel": "ELBO -0.058, ESS 0.93",
    "ionosphere": "ELBO -111.657",
    "sonar": "ELBO -108.83",
    "german_credit": "ELBO -585.10",
    "seeds": "ELBO -73.418",
    "brownian": "ELBO 1.118",
    "cox_process": "ELBO 497.85 (SMC), 486.77 (diffusion)",
    "many_well": "ELBO 162.84, EUBO 166.30",
    "forty_modes": "EUBO 0.88",
}
HEAD = f"""---
hide: [navigation, toc]
---

# Results

The command with its default options, by `nox -s results`: figures are means over the seeds, log Z is pooled over all of
their paths, {REPEATS * PATHS:,} a seed, and seconds are of the whole command but its start and pictures. Density
evaluations are those of the updates; the search for coordinates and modes comes on top. The records are in
`results.json`.

"""
# Annealed importance sampling from a Laplace fit, with standard errors; the others are exact and known to the targets.
TRUTH = {"cox_process": "501.79 ± 0.05", "ionosphere": "-111.610 ± 0.002", "sonar": "-108.382 ± 0.002"}


def run(target: str, seed: int) -> dict[str, object]:
    """One run of the command, and what its samples look like before they are weighted."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--seed", str(seed), "--samples", str(REPEATS * PATHS), "--no-pictures", "--output", folder]
        subprocess.run([sys.executable, "-m", "dds", target, *options], check=True, stdout=subprocess.DEVNULL)
        record = json.loads((Path(folder) / "summary.json").read_text())
        with np.load(Path(folder) / "samples.npz") as archive:
            x, log_w = archive["samples"], archive["log_weights"]
    log_z = [float(estimators.log_z(jnp.asarray(part)).value) for part in np.split(log_w, REPEATS)]
    return record | {
        "log_z_mean_of_repeats": float(np.mean(log_z)),
        "log_z_sd_of_repeats": float(np.std(log_z, ddof=1)),
        **look(target, x, log_w),
    }


def look(target: str, x: np.ndarray, log_w: np.ndarray) -> dict[str, float]:
    if target == "funnel":
        v = x[:, 0]
        return {"sd_of_v": float(v.std()), "low_tail": float((v < -4).mean()), "high_tail": float((v > 4).mean())}
    if target == "many_well":
        share = (x[:, ::2] > 0).mean(axis=0)
        return {"right": float(share.mean()), "least_right": float(share.min()), "most_right": float(share.max())}
    if target == "forty_modes":
        bits = np.random.RandomState(0).randint(0, 2**32, 80, dtype=np.uint32)
        means = 80 * ((bits & 0xFFFFFF) / 2**24 - 0.5).reshape(40, 2)
        nearest = np.argmin(((x[:, None] - means) ** 2).sum(axis=-1), axis=1)
        share = np.bincount(nearest, minlength=40) / len(x)
        return {
            "modes_within_a_factor_2": int(((share > 1 / 80) & (share < 1 / 20)).sum()),
            "least_share": float(share.min()),
            "largest_share": float(share.max()),
        }
    moments = json.loads((resources.files("dds.targets") / "data/reference_moments.json").read_text())
    if target not in moments:
        return {}
    mean, sd = (np.asarray(moments[target][name]) for name in ("mean", "sd"))
    weights = np.exp(log_w - log_w.max())
    weights /= weights.sum()
    weighted = weights @ x
    spread = np.sqrt(weights @ (x - weighted) ** 2)
    return {
        "largest_error_of_a_mean_in_sds": float(np.max(np.abs(weighted - mean) / sd)),
        "largest_relative_error_of_an_sd": float(np.max(np.abs(spread / sd - 1))),
    }


def table(records: list[dict]) -> str:
    """The records as Markdown, one line a target: means over the seeds, and their range where it says more."""
    lines = [
        "| target | seeds | ELBO | EUBO | log Z | sd of 30 repeats | truth | ESS | Pareto k | samples before weighting "
        "| seconds, of training | updates, density evaluations | best published |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for target in PUBLISHED:
        mine = [record for record in records if record["target"] == target]
        if not mine:
            continue

        def mean(name, mine=mine):
            values = [record[name] for record in mine if record[name] is not None]
            return float(np.mean(values)) if values else float("nan")

        pooled = estimators.log_z(jnp.asarray([record["log_z"] for record in mine]))
        error = np.sqrt(np.mean([record["log_z_standard_error"] ** 2 for record in mine]) / len(mine))
        ess = [record["ess"] for record in mine]
        looks = {
            name: mean(name) for name in mine[0] if name in {
                "sd_of_v", "low_tail", "high_tail", "right", "least_right", "most_right", "modes_within_a_factor_2",
                "largest_error_of_a_mean_in_sds", "largest_relative_error_of_an_sd",
            }
        }  # fmt: skip
        true = mine[0]["log_z_true"]
        truth = TRUTH.get(target, "" if true is None else f"{true:.4g}" if true == 0 else f"{true:.4f}")
        cells = [
            target,
            str(len(mine)),
            f"{mean('elbo'):.3f}",
            "" if mine[0]["eubo"] is None else f"{mean('eubo'):.3f}",
            f"{float(pooled.value):.3f} ± {error:.3f}",
            f"{mean('log_z_sd_of_repeats'):.3f}",
            truth,
            f"{np.mean(ess):.2f} ({min(ess):.2f} to {max(ess):.2f})",
            f"{mean('pareto_k'):.2f}",
            ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in looks.items()),
            f"{mean('seconds'):.0f}, {mean('seconds_of_training'):.0f}",
            f"{mean('updates'):.0f}, {mean('density_evaluations_of_training'):,.0f}",
            PUBLISHED[target],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(PUBLISHED), metavar="TARGET")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="write the table of what is there, and run nothing")
    parser.add_argument("--records", type=Path, default=DOCS / "results.json")
    arguments = parser.parse_args()
    path = arguments.records
    records = json.loads(path.read_text()) if path.exists() else []
    done = {(record["target"], record["seed"]) for record in records}
    cells = [(target, seed) for seed in range(arguments.seeds) for target in arguments.targets]
    waiting = [] if arguments.table else [cell for cell in cells if cell not in done]
    for target, seed in track(waiting, "results", console=Console(stderr=True)):
        records.append(run(target, seed))
        path.write_text(json.dumps(records, indent=1) + "\n")
        print(json.dumps(records[-1]), flush=True)
    path.with_suffix(".md").write_text(table(records))
