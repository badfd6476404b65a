"""One path of the sampler from one key. Batches are made by `jax.vmap` over keys."""

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import jaxtyped

from dds import normal, ou
from dds.checks import require
from dds.types import KeyArray, Path, Sampler, State, Trajectory


@jaxtyped(typechecker=beartype)
def sample_path(key: KeyArray, sampler: Sampler, *, freeze_laws: bool = False) -> Path:
    r"""Draws a path, $y_0 \sim p_0$, $y_{k+1} \sim F_k(\cdot \mid y_k)$, with the laws that it was drawn from.

    The denoising kernel is evaluated once a step. Under differentiation its activations are computed again, not
    stored: faster on a CPU, and the memory does not grow with the size of the network times the number of steps.

    Args:
        key: The random key of the path.
        sampler: The prior, the noising process and the denoising kernel.
        freeze_laws: Whether the laws in the returned path take the parameters of the kernel as constants (the state
            still varies): what the *sticking-the-landing* gradient asks for. Values are the same, and so is the mean
            of the gradient of `-log w`; its variance vanishes as the sampler becomes perfect. Whatever the kernel
            closes over counts as parameter.

    Returns:
        The path.

    Raises:
        ValueError: If the rows of the kernel do not have one entry a step.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3; Roeder, Wu and Duvenaud (2017) for sticking
        the landing.

    Example:
        >>> from dds import ou, reversal, schedules
        >>> noising = ou.process(schedules.cosine(8, total=2.0), 1.0)
        >>> zero = reversal.denoising_kernel(noising, lambda y, k: jnp.zeros_like(y))
        >>> path = sample_path(jax.random.key(0), Sampler(ou.stationary(noising, 2), noising, zero))
        >>> path.trajectory.states.shape, path.kernels.mean.shape
        ((9, 2), (8, 2))
    """
    prior, noising, (rows, apply) = sampler
    _require_rows(sampler)
    noise = normal.path_noise(key, noising.fractions.size + 1, prior.mean)
    start = normal.reparameterise(prior, noise[0])
    apply, captured = jax.closure_convert(apply, start, jax.tree.map(lambda row: row[0], rows))

    def step(y: State, inputs):
        row, decay, scale, noise = inputs
        law = apply(y, row, *captured)
        innovation = normal.reparameterise(law, noise)
        reported = apply(y, *jax.lax.stop_gradient((row, *captured))) if freeze_laws else law
        after = decay * y + scale * innovation
        return after, (after, innovation, reported)

    inputs = (rows, jnp.sqrt(1 - noising.fractions), ou.scales(noising), noise[1:])
    _, (states, innovations, laws) = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), start, inputs)
    return Path(Trajectory(jnp.concatenate([start[None], states]), innovations), prior, laws)


@jaxtyped(typechecker=beartype)
def retrace(trajectory: Trajectory, sampler: Sampler) -> Path:
    r"""Lays the laws of a sampler along a given trajectory, all steps at once: no scan, nothing stored between steps.

    On paths noised from exact samples it gives the EUBO and the forward ESS; on paths cut from the gradient by
    `jax.lax.stop_gradient` it gives the log-variance loss.

    Args:
        trajectory: States and innovations, of `sample_path` or of `dds.ou.noise_path`.
        sampler: The sampler whose laws are wanted.

    Returns:
        The path.

    Raises:
        ValueError: If the rows of the kernel do not have one entry a step.

    Example:
        >>> from dds import ou, reversal, schedules
        >>> noising = ou.process(schedules.cosine(8, total=2.0), 1.0)
        >>> zero = reversal.denoising_kernel(noising, lambda y, k: jnp.zeros_like(y))
        >>> back = ou.noise_path(jax.random.key(0), noising, jnp.ones(2))
        >>> retrace(back, Sampler(ou.stationary(noising, 2), noising, zero)).kernels.mean.shape
        (8, 2)
    """
    _require_rows(sampler)
    return Path(
        trajectory, sampler.prior, jax.vmap(sampler.denoising.apply)(trajectory.states[:-1], sampler.denoising.rows)
    )


def _require_rows(sampler: Sampler) -> None:
    steps = sampler.noising.fractions.size
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(sampler.denoising.rows)}
    require(
        lengths == {(steps,)}, "the leading axis of the kernel's rows", sorted(lengths), f"the number of steps, {steps}"
    )
