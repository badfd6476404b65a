"""One path of the sampler from one key. Batches are made by `jax.vmap` over keys."""

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import jaxtyped

from dds import normal, ou
from dds.checks import require
from dds.types import KeyArray, Normal, Path, Sampler, Scalar, State, Trajectory


@jaxtyped(typechecker=beartype)
def sample_path(key: KeyArray, sampler: Sampler, *, freeze_laws: bool = False) -> Path:
    r"""Draws a path, $y_0 \sim p_0$, $y_{k+1} \sim F_k(\cdot \mid y_k)$, with the laws that it was drawn from.

    The kernel is evaluated once a state. Under differentiation its activations are computed again, not
    stored: faster on a CPU, and the memory does not grow with the size of the network times the number of steps.

    Args:
        key: The random key of the path.
        sampler: The prior, the reference process and the kernel.
        freeze_laws: Whether the denoising laws in the returned path take the parameters of the kernel as constants (the
            state still varies): what the *sticking-the-landing* gradient asks for. Values are the same, and so is the
            mean of the gradient of `-log w`; its variance falls as the sampler becomes better, to zero with fixed
            noising kernels. Whatever the kernel closes over counts as parameter.

    Returns:
        The path.

    Raises:
        ValueError: If the rows of the kernel do not have one entry a state.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3; Roeder, Wu and Duvenaud (2017) for sticking
        the landing.

    Example:
        >>> from dds import ou, reversal, schedules
        >>> reference = ou.process(schedules.cosine(8, total=2.0), 1.0)
        >>> zero = reversal.denoising_kernel(reference, lambda y, k: jnp.zeros_like(y))
        >>> path = sample_path(jax.random.key(0), Sampler(ou.stationary(reference, 2), reference, zero))
        >>> path.trajectory.states.shape, path.denoising.mean.shape
        ((9, 2), (8, 2))
    """
    _require_rows(sampler)
    prior, reference, (rows, apply) = sampler
    ahead, last = jax.tree.map(lambda row: row[:-1], rows), jax.tree.map(lambda row: row[-1], rows)
    noise = normal.path_noise(key, reference.fractions.size + 1, prior.mean)
    start = normal.reparameterise(prior, noise[0])
    apply, captured = jax.closure_convert(apply, start, last)

    def step(y: State, inputs):
        row, decay, scale, noise = inputs
        laws = apply(y, row, *captured)
        innovation = normal.reparameterise(laws.denoising, noise)
        after = decay * y + scale * innovation
        if not freeze_laws:
            return after, (after, innovation, laws.denoising, laws.noising)
        frozen = apply(y, *jax.lax.stop_gradient((row, *captured))).denoising
        return after, (after, innovation, _frozen_step(frozen, y, decay, scale), laws.noising)

    inputs = (ahead, jnp.sqrt(1 - reference.fractions), ou.scales(reference), noise[1:])
    end, outputs = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), start, inputs)
    states, innovations, denoising, noising = outputs
    # The law of the step back from y_k is had at y_k: those of the scan begin one too early, and lack the last.
    noising = jax.tree.map(
        lambda laws, last: jnp.concatenate([laws[1:], last[None]]), noising, apply(end, last, *captured).noising
    )
    return Path(Trajectory(jnp.concatenate([start[None], states]), innovations), prior, denoising, noising)


@jaxtyped(typechecker=beartype)
def retrace(trajectory: Trajectory, sampler: Sampler) -> Path:
    r"""Lays the laws of a sampler along a given trajectory, all steps at once: no scan, nothing stored between steps.

    On paths noised from exact samples it gives the EUBO and the forward ESS; on paths cut from the gradient by
    `jax.lax.stop_gradient` it gives the log-variance loss.

    Args:
        trajectory: States and innovations, of `sample_path` or of `noise_path`.
        sampler: The sampler whose laws are wanted.

    Returns:
        The path.

    Raises:
        ValueError: If the rows of the kernel do not have one entry a state.

    Example:
        >>> from dds import ou, reversal, schedules
        >>> reference = ou.process(schedules.cosine(8, total=2.0), 1.0)
        >>> zero = reversal.denoising_kernel(reference, lambda y, k: jnp.zeros_like(y))
        >>> law = Sampler(ou.stationary(reference, 2), reference, zero)
        >>> retrace(noise_path(jax.random.key(0), law, jnp.ones(2)), law).denoising.mean.shape
        (8, 2)
    """
    _require_rows(sampler)
    laws = jax.vmap(sampler.kernel.apply)(trajectory.states, sampler.kernel.rows)
    denoising = jax.tree.map(lambda law: law[:-1], laws.denoising)
    return Path(trajectory, sampler.prior, denoising, jax.tree.map(lambda law: law[1:], laws.noising))


@jaxtyped(typechecker=beartype)
def noise_path(key: KeyArray, sampler: Sampler, x: State) -> Trajectory:
    r"""A whole noising path, from a point of the target to the prior: $y_K = x$, $y_k \sim B_k(\cdot \mid y_{k+1})$.

    Args:
        key: The random key of the path.
        sampler: The sampler whose noising kernels are wanted.
        x: The last state of the path, in sampling order.

    Returns:
        The path in sampling order; its innovations are
        $\sqrt{b_k}\,y_{k+1} / \sigma - \sqrt{1 - b_k}\,\zeta_k$ with those of the steps back, $\zeta_k$.

    Raises:
        ValueError: If the rows of the kernel do not have one entry a state.

    Example:
        >>> from dds import ou, reversal, schedules
        >>> reference = ou.process(schedules.cosine(8, total=2.0), 1.0)
        >>> zero = reversal.denoising_kernel(reference, lambda y, k: jnp.zeros_like(y))
        >>> back = noise_path(jax.random.key(0), Sampler(ou.stationary(reference, 3), reference, zero), jnp.ones(3))
        >>> back.states.shape, back.states[-1].tolist()
        ((9, 3), [1.0, 1.0, 1.0])
    """
    _require_rows(sampler)
    _, reference, (rows, apply) = sampler
    noise = normal.path_noise(key, reference.fractions.size, x)

    def step(after: State, inputs):
        row, fraction, noise = inputs
        law = apply(after, row).noising
        back = noise if law is None else normal.reparameterise(law, noise)
        before = jnp.sqrt(1 - fraction) * after + reference.sigma * jnp.sqrt(fraction) * back
        return before, (before, jnp.sqrt(fraction) * after / reference.sigma - jnp.sqrt(1 - fraction) * back)

    inputs = (jax.tree.map(lambda row: row[1:], rows), reference.fractions, noise)
    _, (states, innovations) = jax.lax.scan(step, x, inputs, reverse=True)
    return Trajectory(jnp.concatenate([states, x[None]]), innovations)


def _frozen_step(law: Normal, y: State, decay: Scalar, scale: Scalar) -> Normal:
    """The law itself in value; its gradient says that decay and scale of the step, too, are constants in `log F`."""
    fixed_decay, fixed_scale = jax.lax.stop_gradient((decay, scale))
    ratio = fixed_scale / scale
    return Normal((law.mean - (decay - fixed_decay) / fixed_scale * y) * ratio, law.scale * ratio)


def _require_rows(sampler: Sampler) -> None:
    states = sampler.reference.fractions.size + 1
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(sampler.kernel.rows)}
    require(
        lengths == {(states,)},
        "the leading axis of the kernel's rows",
        sorted(lengths),
        f"one more than the number of steps, {states}",
    )
