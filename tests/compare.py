"""Four ways to log Z on the same targets: `python tests/compare.py`, which is `nox -s compare`.

Importance sampling from a normal fit, tempered SMC of BlackJAX, NUTS of NumPyro with bridge sampling after it, and
`dds.sample` with its defaults. None is told the truth, or given exact samples. Each target, way and seed is a process,
whose record is kept: started again, it goes on with those that are not there yet. In the end it writes
`docs/compared.json` and the page `docs/compared.md`, also from what is there so far (`--table`: only that). Pin it to
one core for seconds that compare.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import dds
from dds import choices, coordinates, estimators, normal, targets
from dds.types import Target

DOCS = Path(__file__).parents[1] / "docs"
TARGETS = (
    "funnel",
    "ionosphere",
    "sonar",
    "german_credit",
    "seeds",
    "brownian",
    "many_well",
    "forty_modes",
    "eight_groups",
)
# The most CPU seconds of a run, and the most temperatures: what has not arrived by then has failed.
LIMIT, STAGES = 1800, 500
# What counts as right: an error of log Z that changes no comparison of models.
RIGHT = 0.05
HEAD = f"""---
hide: [navigation, toc]
---

# Compared

Four ways to log Z. What else they differ in is on [another page](explanation/comparison.md).

The same targets, none with its truth told, by `nox -s compare`: CPU seconds of the whole process on one
core of a virtual machine, with imports and compilation (median over seeds), and the root of the mean square of the
error of log Z. A number in bold is an error above {RIGHT}.

"""
NOTES = """
The settings, the same on all targets and not tuned to any:

- *fit*: the normal distribution closest to the target (`dds.coordinates.variational`), and 400,000 weighted draws.
- *SMC*: BlackJAX's adaptive tempered SMC from the target's `start`, 10,000 particles (4,000 in five dimensions or
  fewer), temperatures at an effective sample size of 0.8, and at each five HMC moves of four leapfrog steps, their mass
  matrix and step size tuned on the particles. It claims no standard error.
- *NUTS*: NumPyro's, as it comes, four chains of 1,000 steps of warm-up and 2,000 draws from the target's `start`; then
  bridge sampling between half of the draws and as many of the normal distribution fitted to the others.
- *dds*: `dds.sample` with its defaults. It draws 10,000 samples and aims at a standard error of 0.01.
"""


def target_named(name: str) -> Target:
    if name == "eight_groups":
        from problem_set import eight_groups

        return eight_groups()
    return getattr(targets, name)()


def importance_sampling(key: jax.Array, target: Target, draws: int = 400_000, chunk: int = 4000) -> dict:
    """Draws from the closest normal distribution, with weights."""
    fit_key, draw_key = jax.random.split(key)
    start = choices.starting_point(target)
    fit, taken = coordinates.fit_from(fit_key, target.log_density, start)

    def weighed(key):
        x = jax.vmap(partial(normal.reparameterise, fit))(jax.random.normal(key, (chunk, target.dim)))
        return log_ratio(target, fit, x)

    log_w = jax.jit(partial(jax.lax.map, weighed))(jax.random.split(draw_key, draws // chunk)).ravel()
    estimate = estimators.log_z(log_w)
    # A step takes the gradient at 64 draws, weighs 64 three times, and a Hessian is as many gradients as dimensions.
    evaluations = taken * 64 * (target.dim + 4) + draws
    return {
        "log_z": float(estimate.value),
        "standard_error": float(estimate.standard_error),
        "evaluations": evaluations,
        "ess": float(estimators.effective_sample_size(log_w)),
    }


def tempered_smc(key: jax.Array, target: Target, moves: int = 5, leapfrog: int = 4) -> dict:
    """BlackJAX's adaptive tempered SMC, from the distribution where the target is looked for.

    HMC with the particles' covariance as inverse mass matrix: in such units a quarter of a period, pi / 2, is the
    longest useful trajectory, so the step size is at most that over the number of leapfrog steps, and smaller where
    less than 0.8 of the proposals are accepted.
    """
    import blackjax
    from blackjax.smc import extend_params

    require_mended()
    particles = 4000 if target.dim <= 5 else 10_000
    start = choices.starting_point(target)
    start_key, key = jax.random.split(key)
    first = jax.vmap(partial(normal.reparameterise, start))(jax.random.normal(start_key, (particles, target.dim)))
    longest = np.pi / 2 / leapfrog

    def log_likelihood(x):
        value = target.log_density(x) - normal.log_density(start, x)
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def parameters(step_size, points, weights):
        centred = points - weights @ points
        covariance = centred.T @ (weights[:, None] * centred)
        least = 1e-6 * jnp.trace(covariance) / target.dim * jnp.eye(target.dim)
        return extend_params({"step_size": step_size, "inverse_mass_matrix": covariance + least})

    def settings(at: dict) -> blackjax.SamplingAlgorithm:
        return blackjax.adaptive_tempered_smc(
            partial(normal.log_density, start),
            log_likelihood,
            partial(blackjax.hmc.build_kernel(), num_integration_steps=leapfrog),
            blackjax.hmc.init,
            at,
            blackjax.smc.resampling.systematic,
            target_ess=0.8,
            num_mcmc_steps=moves,
        )

    @jax.jit
    def step(key, state, at):
        state, info = settings(at).step(key, state)
        rate = jnp.mean(info.update_info.acceptance_rate)
        step_size = jnp.minimum(at["step_size"][0] * jnp.exp(rate - 0.8), longest)
        return state, parameters(step_size, state.particles, state.weights), info.log_likelihood_increment, rate

    at = parameters(jnp.asarray(longest), first, jnp.full(particles, 1 / particles))
    state = settings(at).init(first)
    state = state._replace(tempering_param=jnp.zeros(()))
    log_z, stages, rates = 0.0, 0, []
    while float(state.tempering_param) < 1 - 1e-6 and stages < STAGES:
        state, at, increment, rate = step(jax.random.fold_in(key, stages), state, at)
        log_z, stages, rates = log_z + float(increment), stages + 1, [*rates, float(rate)]
    if not float(state.tempering_param) >= 1 - 1e-6:
        raise RuntimeError(f"temperature {float(state.tempering_param):.3g} after {stages} stages")
    # Besides the leapfrog steps: where a trajectory starts, the weights, and the search for the temperature.
    evaluations = particles * stages * (moves * leapfrog + 3)
    return {"log_z": log_z, "evaluations": evaluations, "stages": stages, "acceptance": float(np.mean(rates))}


def require_mended() -> None:
    """Before May 2026 the search for a temperature took log likelihoods with the wrong sign (BlackJAX, issue 914)."""
    from blackjax.smc import ess, solver

    values = jnp.log(jnp.arange(1.0, 101.0)) * 10  # skewed: with the other sign the step is another
    step = ess.ess_solver(lambda x: x, values, 0.5, 1.0, solver.dichotomy)
    reached = float(estimators.effective_sample_size(step * values))
    if abs(reached - 0.5) > 0.01:
        raise RuntimeError(f"this BlackJAX has the sign error of its issue 914: ESS {reached:.3f} for 0.5")


def nuts_and_bridge(key: jax.Array, target: Target, chains: int = 4, warm_up: int = 1000, draws: int = 2000) -> dict:
    """NumPyro's NUTS, and Bennett's acceptance ratio between one half of the draws and a normal fit to the other."""
    from numpyro.diagnostics import summary
    from numpyro.infer import MCMC, NUTS

    class Counted(NUTS):
        """Counts the steps of all trajectories, warm-up included, where NUTS has those of the last."""

        def sample(self, state, model_args, model_kwargs):
            new = super().sample(state, model_args, model_kwargs)
            return new._replace(num_steps=state.num_steps + new.num_steps)

    start_key, run_key, draw_key = jax.random.split(key, 3)
    start = choices.starting_point(target)
    first = jax.vmap(partial(normal.reparameterise, start))(jax.random.normal(start_key, (chains, target.dim)))
    # One after another, the chains would be compiled four times: side by side they cost less, also on one core.
    options = {"num_chains": chains, "chain_method": "vectorized", "progress_bar": False}
    kernel = Counted(potential_fn=lambda x: -target.log_density(x))
    mcmc = MCMC(kernel, num_warmup=warm_up, num_samples=draws, **options)
    mcmc.run(run_key, init_params=first)
    steps = int(mcmc.last_state.num_steps.sum())

    x = mcmc.get_samples(group_by_chain=True)
    r_hat = float(np.max(summary({"x": np.asarray(x)})["x"]["r_hat"]))
    fitted, kept = (part.reshape(-1, target.dim) for part in jnp.split(x, 2, axis=1))
    fit = coordinates.moments(fitted)
    drawn = jax.vmap(partial(normal.reparameterise, fit))(jax.random.normal(draw_key, kept.shape))
    log_w_of_drawn, log_w_of_kept = log_ratio(target, fit, drawn), log_ratio(target, fit, kept)
    # The error that the bridge claims takes draws as independent, which those of a chain are not: none is passed on.
    log_z = float(estimators.bridge(log_w_of_drawn, log_w_of_kept).value)
    return {"log_z": log_z, "evaluations": steps + len(drawn) + len(kept), "largest_r_hat": r_hat}


def by_dds(key: jax.Array, target: Target) -> dict:
    result = dds.sample(key, target)
    return {
        "log_z": float(result.log_z.value),
        "standard_error": float(result.log_z.standard_error),
        "evaluations": result.evaluations,
        "trusted": result.verdict.startswith("Trust"),
        "verdict": result.verdict,
    }


def log_ratio(target: Target, fit: dds.types.Normal, x: jax.Array) -> jax.Array:
    def one(x):
        value = target.log_density(x) - normal.log_density(fit, x)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    return jax.jit(jax.vmap(one))(x)


METHODS: dict[str, Callable[[jax.Array, Target], dict]] = {
    "fit": importance_sampling,
    "SMC": tempered_smc,
    "NUTS": nuts_and_bridge,
    "dds": by_dds,
}


def one(name: str, method: str, seed: int) -> dict:
    """One run in this process: its figures, and the seconds of the process so far."""
    target = target_named(name)
    assert target.log_z is not None
    # What the user has: a density, not the truth.
    unknown = target._replace(log_z=None, log_z_error=0.0, sample=None)
    found = METHODS[method](jax.random.key(seed), unknown)
    if not np.isfinite(found["log_z"]):
        raise RuntimeError(f"log Z is {found['log_z']}")
    about = {"dim": target.dim, "log_z_true": target.log_z, "log_z_true_error": target.log_z_error}
    return about | found | {"error": found["log_z"] - target.log_z, "cpu_seconds": round(time.process_time(), 1)}


def run(name: str, method: str, seed: int, *more: object, script: str = __file__) -> dict:
    """One run in a process of its own; its failure is a record, too."""
    command = [sys.executable, script, "--one", name, method, str(seed), *map(str, more)]
    out = subprocess.run(command, capture_output=True, text=True)
    about = {"target": name, "method": method, "seed": seed}
    if out.returncode == 0:
        return about | json.loads(out.stdout.splitlines()[-1])
    return about | {"failed": (out.stderr.strip().splitlines() or [""])[-1] or f"status {out.returncode}"}


def line(record: dict) -> str:
    """A record in a line."""
    begin = f"{record['target']:14s} {record['method']:5s} {record['seed']}"
    if "failed" in record:
        return f"{begin} FAILED: {record['failed']}"
    claimed = f" +- {record['standard_error']:.4f}" if "standard_error" in record else ""
    trusted = {True: " trusted", False: " doubted"}.get(record.get("trusted"), "")
    return f"{begin} {record['error']:+.4f}{claimed} {record['cpu_seconds']:.0f} s{trusted}"


def left(records: list[dict], waiting: list[tuple[str, str, int]]) -> float:
    """About how many CPU seconds are left: as the same target and method took, else as the method took elsewhere."""

    def expected(name: str, method: str) -> float:
        mine = [record for record in records if record["method"] == method and "failed" not in record]
        same = [record for record in mine if record["target"] == name]
        return float(np.mean([record["cpu_seconds"] for record in same or mine])) if mine else 60.0

    return sum(expected(name, method) for name, method, _ in waiting)


def rms(records: list[dict]) -> float:
    return float(np.sqrt(np.mean([record["error"] ** 2 for record in records])))


def seconds(records: list[dict]) -> float:
    return float(np.median([record["cpu_seconds"] for record in records]))


def cells(records: list[dict]) -> list[str]:
    """Seconds and error of one target and method."""
    whole = [record for record in records if "failed" not in record]
    if not records:
        return ["", ""]
    failed = f"failed {len(records) - len(whole)} of {len(records)}" if len(whole) < len(records) else ""
    if not whole:
        return ["", failed]
    error = f"{rms(whole):.3f}"
    error = f"**{error}**" if rms(whole) > RIGHT else error
    return [f"{seconds(whole):.0f}", f"{error}, {failed}" if failed else error]


def more(records: list[dict]) -> list[str]:
    """The evaluations of each method, and the errors that two of them claim."""
    whole = {method: [r for r in records if r["method"] == method and "failed" not in r] for method in METHODS}
    evaluations = [f"{np.median([r['evaluations'] for r in mine]):,.0f}" if mine else "" for mine in whole.values()]
    claimed = [
        f"{np.median([r['standard_error'] for r in whole[method]]):.4f}" if whole[method] else ""
        for method in ("fit", "dds")
    ]
    return [*evaluations, *claimed]


def losses(name: str, records: list[dict]) -> str:
    """What loses on a target: the ways that are wrong or fail, and this library where something right is cheaper."""
    runs = {method: [r for r in records if r["method"] == method] for method in METHODS}
    runs = {method: mine for method, mine in runs.items() if mine}
    broken = [method for method, mine in runs.items() if any("failed" in r for r in mine)]
    wrong = [method for method, mine in runs.items() if method not in broken and rms(mine) > RIGHT]
    right = {method: seconds(mine) for method, mine in runs.items() if method not in broken + wrong}
    parts = [f"wrong by more than {RIGHT}: {', '.join(wrong)}"] if wrong else []
    parts += [f"failed: {', '.join(broken)}"] if broken else []
    if "dds" in right and min(right.values()) < right["dds"]:
        best = min(right, key=lambda method: right[method])
        error, other = rms(runs["dds"]), rms(runs[best])
        parts.append(
            f"dds is slower than {best}, {right['dds']:.0f} s to {right[best]:.0f} s, at errors of "
            f"{error:.3f} and {other:.3f}"
        )
    return f"- `{name}`: {'; '.join(parts)}." if parts else ""


def table(records: list[dict]) -> str:
    """The records as Markdown, one line a target, and what loses."""
    names = [name for name in TARGETS if any(record["target"] == name for record in records)]
    heads = [f"{method}: {what}" for method in METHODS for what in ("CPU s", "error")]
    others = [*(f"{method}: evaluations" for method in METHODS), "fit: claimed error", "dds: claimed error"]
    lines, second = [row(["target", "seeds", *heads, "dds trusted"])], [row(["target", *others])]
    lines, second = [*lines, "|" + "---|" * (len(heads) + 3)], [*second, "|" + "---|" * (len(others) + 1)]
    for name in names:
        mine = [record for record in records if record["target"] == name]
        of_method = [[record for record in mine if record["method"] == method] for method in METHODS]
        trusted = sum(record.get("trusted", False) for record in of_method[-1])
        lines.append(
            row(
                [
                    name,
                    str(len({record["seed"] for record in mine})),
                    *(cell for its in of_method for cell in cells(its)),
                    f"{trusted} of {len(of_method[-1])}",
                ]
            )
        )
        second.append(row([name, *more(mine)]))
    lost = [losses(name, [record for record in records if record["target"] == name]) for name in names]
    what = "\n\nWhat loses:\n\n" + "\n".join(filter(None, lost)) + "\n"
    return HEAD + "\n".join(lines) + what + NOTES + "\n" + "\n".join(second) + "\n"


def row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS, metavar="TARGET")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--records", type=Path, default=Path("build/compare.json"))
    parser.add_argument("--output", type=Path, default=DOCS, help="the folder of the table and its records")
    parser.add_argument("--table", action="store_true", help="write the table of what is there, and run nothing")
    parser.add_argument("--one", nargs=3, metavar=("TARGET", "METHOD", "SEED"), help="one run, its record as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
        print(json.dumps(one(arguments.one[0], arguments.one[1], int(arguments.one[2])), default=float))
        sys.exit()
    path = arguments.records
    path.parent.mkdir(parents=True, exist_ok=True)
    records = json.loads(path.read_text()) if path.exists() else []
    done = {(record["target"], record["method"], record["seed"]) for record in records}
    seeds, names, methods = range(arguments.seeds), arguments.targets, arguments.methods
    grid = [(name, method, seed) for seed in seeds for name in names for method in methods]
    waiting = [] if arguments.table else [cell for cell in grid if cell not in done]
    for i, cell in enumerate(waiting):
        records.append(run(*cell))
        path.write_text(json.dumps(records, indent=1) + "\n")
        print(f"{line(records[-1])}; about {left(records, waiting[i + 1 :]) / 60:.0f} CPU minutes left", flush=True)
    (arguments.output / "compared.json").write_text(json.dumps(records, indent=1) + "\n")
    (arguments.output / "compared.md").write_text(table(records))
