"""Energies and distances of particles against those of long chains: `nox -s particles [-- CASE ...]`.

The figures that papers report are Wasserstein distances of order two: of the energies of 2,000 samples, and of all the
distances between two particles of a sample, to those of exact ones. The chains are of BlackJAX's Hamiltonian Monte
Carlo: 256 of them, each from a start of its own, 800 moves to settle and 4,000 that count. What two sets of 2,000 of
their states have of each other stands beside.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import dds
from dds import distances, targets
from dds.types import Target

SAMPLES, CHAINS, LEAPS, DESCENT = 2000, 256, 20, 3000
CASES = {
    "double_well_particles": targets.double_well_particles,
    "lennard_jones": targets.lennard_jones,
    "lennard_jones, depth 2": partial(targets.lennard_jones, depth=2.0),
}


def chains(key: jax.Array, target: Target) -> np.ndarray:
    """States of long chains, well apart."""
    # Not at the top: the other tests, which pytest looks for in all of these files, do without BlackJAX.
    import blackjax

    start_key, key = jax.random.split(key)
    assert target.start is not None
    x = target.start.mean[None] + target.start.scale * jax.random.normal(start_key, (CHAINS, target.dim))

    def descend(i, x):
        slope = jax.vmap(jax.grad(target.log_density))(x)
        return x + 0.02 * 0.999**i * slope / jnp.maximum(jnp.linalg.norm(slope, axis=1, keepdims=True), 1)

    @jax.jit
    def hundred_moves(key, x, step):
        kernel = blackjax.hmc(target.log_density, step, jnp.ones(target.dim), LEAPS)

        def move(states, key):
            states, info = jax.vmap(kernel.step)(jax.random.split(key, CHAINS), states)
            return states, info.acceptance_rate.mean()

        states, rates = jax.lax.scan(move, jax.vmap(kernel.init)(x), jax.random.split(key, 100))
        return states.position, rates.mean()

    x, step, kept = jax.jit(lambda x: jax.lax.fori_loop(0, DESCENT, descend, x))(x), 0.03, []
    for i in range(48):
        x, rate = hundred_moves(jax.random.fold_in(key, i), x, step)
        if i < 8:
            step *= 1.3 if rate > 0.85 else 0.8 if rate < 0.6 else 1.0
        else:
            kept.append(np.asarray(x))
    return np.concatenate(kept)


def main() -> None:
    for name in sys.argv[1:] or CASES:
        target = CASES[name]()
        assert target.structure is not None
        energy = jax.vmap(lambda x, target=target: -target.log_density(x))
        pairs = np.triu_indices(len(jax.eval_shape(target.structure, jnp.zeros(target.dim))), 1)

        def lengths(positions, pairs=pairs):
            return jnp.linalg.norm(positions[:, pairs[0]] - positions[:, pairs[1]], axis=-1).ravel()

        for seed in range(2):
            chains_key, run_key, draw_key = jax.random.split(jax.random.key(seed), 3)
            states = np.random.default_rng(seed).permutation(chains(chains_key, target))
            exact, other = jnp.asarray(states[:SAMPLES]), jnp.asarray(states[SAMPLES : 2 * SAMPLES])
            flat = target._replace(log_z=None, structure=None)
            result = dds.sample(run_key, flat)
            ours = dds.resample(draw_key, result, SAMPLES)
            of_energies, of_lengths = (
                [float(distances.wasserstein(function(x), function(exact))) for x in (ours, other)]
                for function in (energy, lambda x, target=target: lengths(jax.vmap(target.structure)(x)))
            )
            print(
                f"{name} seed {seed}: energies {of_energies[0]:.3f}, of chains {of_energies[1]:.3f}; "
                f"distances {of_lengths[0]:.4f}, of chains {of_lengths[1]:.4f}; mean energy of chains "
                f"{float(jnp.mean(energy(exact))):.2f}; log Z {float(result.log_z.value):.3f} +- "
                f"{float(result.log_z.standard_error):.3f}, {result.verdict.split(' log Z')[0]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
