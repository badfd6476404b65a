r"""The forward process: the stationary Ornstein-Uhlenbeck process, by its exact transitions.

In OU time, $dx = -x\,dt + \sigma\sqrt2\,dW$ (the paper's section 2, after a change of time). Whatever the steps, its
transitions are

$$ x' \mid x \sim \mathcal N\left(\sqrt{1 - b}\;x,\; \sigma^2 b\,I\right), \qquad b = 1 - e^{-2 \Delta t}, $$

which leave $\mathcal N(0, \sigma^2 I)$ as it is and satisfy detailed balance with it. Steps join into one of the same
form, so `transition` serves for one step and for many; `noise_levels` says how much noise many steps make.
"""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

from dds.checks import require, require_values
from dds.types import OU, Normal, Scalar, State


@jaxtyped(typechecker=beartype)
def process(fractions: Float[Array, " steps"], sigma: float | Scalar) -> OU:
    """The stationary OU process with given noise fractions and stationary standard deviation.

    Args:
        fractions: The noise fraction `b_k` of each step, in (0, 1), in sampling order.
        sigma: The stationary standard deviation, positive, in units of the target's coordinates.

    Returns:
        The process.

    Raises:
        ValueError: If there is no step, a fraction is outside (0, 1) or `sigma` is not positive. Traced values, as of a
            learned schedule, are not checked.

    Example:
        >>> from dds import schedules
        >>> process(schedules.constant(4, total=2.0), 1.5).sigma.item()
        1.5
    """
    require(fractions.size >= 1, "fractions", f"{fractions.size} of them", "one or more")
    require_values(lambda b: (b > 0) & (b < 1), "fractions", fractions, "in (0, 1)")
    require_values(lambda s: (s > 0) & (s < float("inf")), "sigma", sigma, "positive and finite")
    return OU(fractions, jnp.asarray(sigma, dtype=fractions.dtype))


@jaxtyped(typechecker=beartype)
def stationary(process: OU, dim: int) -> Normal:
    r"""The stationary law, $\mathcal N(0, \sigma^2 I)$: the prior of DDS.

    Args:
        process: The process.
        dim: The dimension, at least 1.

    Returns:
        The law.

    Raises:
        ValueError: If `dim` is below 1.

    Example:
        >>> from dds import schedules
        >>> stationary(process(schedules.constant(8, total=4.0), 1.5), dim=2).mean.shape
        (2,)
    """
    require(dim >= 1, "dim", dim, "at least 1")
    return Normal(jnp.zeros(dim, process.sigma.dtype), process.sigma)


@jaxtyped(typechecker=beartype)
def scales(process: OU) -> Float[Array, " steps"]:
    r"""The standard deviation of the noise of each step, $\sigma \sqrt{b_k}$.

    Args:
        process: The process.

    Returns:
        The standard deviations, in units of the target's coordinates.

    Example:
        >>> scales(process(jnp.array([0.25, 0.25]), 2.0)).tolist()
        [1.0, 1.0]
    """
    return process.sigma * jnp.sqrt(process.fractions)


@jaxtyped(typechecker=beartype)
def transition(x: State, fraction: Scalar, sigma: Scalar) -> Normal:
    r"""The law of the process after a step, $\mathcal N(\sqrt{1 - b}\,x, \sigma^2 b I)$.

    Args:
        x: The state before.
        fraction: The noise fraction `b` of the step, or the `noise_levels` entry of many steps.
        sigma: The stationary standard deviation.

    Returns:
        The law of the state after.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3.

    Example:
        >>> transition(jnp.array([2.0]), jnp.array(0.75), jnp.array(1.0)).mean.tolist()
        [1.0]
    """
    return Normal(jnp.sqrt(1 - fraction) * x, sigma * jnp.sqrt(fraction))


@jaxtyped(typechecker=beartype)
def noise_levels(fractions: Float[Array, " steps"]) -> Float[Array, " steps+1"]:
    r"""The noise fraction of each state given the last one, $\lambda_k = 1 - \prod_{j \ge k} (1 - b_j)$.

    Args:
        fractions: The noise fractions, in sampling order.

    Returns:
        `lambda_0, ..., lambda_K`: nearly one at the prior's end, zero at the target's.

    References:
        Vargas, Grathwohl and Doucet (2023), section 2 (in continuous time).

    Example:
        >>> noise_levels(jnp.array([0.5, 0.5])).tolist()
        [0.75, 0.5, 0.0]
    """
    log_signal = jnp.cumsum(jnp.log1p(-fractions)[::-1])[::-1]
    return jnp.append(-jnp.expm1(log_signal), jnp.zeros(1, fractions.dtype))
