"""Distance of samples from exact ones, on forty modes and a Student mixture: `nox -s sinkhorn [-- CASE ...]`.

The figure that benchmark suites report: the entropy-regularised cost of transport of 2,000 samples to as many exact
ones, squared distances, epsilon 0.001, by OTT with its defaults. With these it stops after 2,000 iterations, before it
has converged, so the figure is no distance; what it can say is whether samples are as good as exact ones, whose figure
stands beside. The benchmarks have standard deviations of 1 in 50 dimensions, and means of their own draw.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import dds
from dds import targets
from dds.types import Target

SAMPLES = 2000


@jax.jit
def cost(samples: jax.Array, exact: jax.Array) -> jax.Array:
    # Not at the top: the other tests, which pytest looks for in all of these files, do without OTT.
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    geometry = pointcloud.PointCloud(exact, samples, epsilon=1e-3)
    return jnp.asarray(sinkhorn.Sinkhorn()(linear_problem.LinearProblem(geometry)).reg_ot_cost)


def narrower(dim: int) -> Target:
    """Modes of standard deviation one."""
    means = np.random.default_rng(0).uniform(-40, 40, (40, dim))
    start = targets.forty_modes(dim).start
    return targets.gaussian_mixture(jnp.asarray(means, jnp.float32), jnp.ones(40))._replace(start=start)


def main() -> None:
    cases = {
        "2-d": targets.forty_modes(),
        "50-d": targets.forty_modes(50),
        "50-d, sd 1": narrower(50),
        "student": targets.student_mixture(),
    }
    for name in sys.argv[1:] or cases:
        target = cases[name]
        for seed in range(3):
            exact_key, other_key, run_key, draw_key = jax.random.split(jax.random.key(seed), 4)
            exact, other = (jax.vmap(target.sample)(jax.random.split(key, SAMPLES)) for key in (exact_key, other_key))
            result = dds.sample(run_key, target._replace(log_z=None, sample=None))
            ours = dds.resample(draw_key, result, SAMPLES)
            print(
                f"{name:10s} seed {seed}: {cost(ours, exact):.1f}, exact samples {cost(other, exact):.1f}; "
                f"log Z {float(result.log_z.value):+.4f} +- {float(result.log_z.standard_error):.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
