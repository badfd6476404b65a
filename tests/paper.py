"""The paper's setting on the funnel, as its authors ran it: `python tests/paper.py --steps 64`.

Ten dimensions, batches of 300, two layers of 64, Adam at 5e-3 decayed by 0.95 every 50 updates, and the authors' tuned
(sigma, alpha) with T = 0.05 K. Prints the figures as JSON.
"""

import argparse
import json
import resource
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dds import estimators, families, losses, networks, paths, schedules, targets, training
from dds.types import Normal

ALPHA = {64: 1.075, 128: 0.6875}
SIGMA = 1.075
BATCH, REPEATS, PATHS = 300, 30, 2000


def run(steps: int, updates: int, loss: str, stop_score: bool, seed: int) -> dict[str, object]:
    target, place = targets.funnel(10), Normal(jnp.zeros(10), jnp.array(SIGMA))
    published = networks.mlp(10, jax.grad(target.log_density), stop_score=stop_score)
    # The authors' network sees x and its score; the sampler moves y = x / sigma.
    network = published._replace(apply=lambda params, y, row: published.apply(params, SIGMA * y, row) / SIGMA)
    family = families.dds(network, schedules.cosine(steps, total=ALPHA[steps] ** 2 * 0.05 * steps), place)
    stick = loss == "stl"
    batch_loss = partial(losses.reverse_kl, log_density=target.log_density, paths=BATCH, stick_the_landing=stick)

    times = [time.perf_counter()]
    train_key, test_key = jax.random.split(jax.random.key(seed))
    optimiser = optax.adam(optax.exponential_decay(5e-3, 50, 0.95))
    record = {"block": 20, "callback": lambda *_: times.append(time.perf_counter())}
    fit = training.fit(train_key, family, batch_loss, optimiser, updates, **record)
    sampler = family.sampler(fit.params)

    def draw(key):
        path = paths.sample_path(key, sampler)
        return losses.log_weight(path, target.log_density), path.x

    @jax.jit
    def evaluate(key):
        return jax.vmap(draw)(jax.random.split(key, PATHS))

    log_w, x = map(
        np.concatenate, zip(*(evaluate(jax.random.fold_in(test_key, i)) for i in range(REPEATS)), strict=True)
    )
    log_z = [float(estimators.log_z(jnp.asarray(part)).value) for part in np.split(log_w, REPEATS)]
    return {
        "steps": steps,
        "loss": loss,
        "stop_score": stop_score,
        "seed": seed,
        "updates": updates,
        "skipped_updates": fit.state.skipped,
        "seconds_per_update": float(np.median(np.diff(times)[1:]) / 20),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "elbo": float(log_w.mean()),
        "log_z_mean": float(np.mean(log_z)),
        "log_z_sd": float(np.std(log_z, ddof=1)),
        "ess": float(estimators.effective_sample_size(jnp.asarray(log_w))),
        "pareto_k": estimators.pareto_k(log_w),
        "sd_of_v": float(x[:, 0].std()),
        "low_tail": float((x[:, 0] < -4).mean()),
        "high_tail": float((x[:, 0] > 4).mean()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, choices=sorted(ALPHA), default=64)
    parser.add_argument("--updates", type=int, default=11_000)
    parser.add_argument("--loss", choices=["stl", "reverse_kl"], default="stl")
    parser.add_argument("--stop-score", action="store_true", help="stop the gradient at the score, as the authors do")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(run(**vars(arguments)), indent=2))
