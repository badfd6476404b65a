r"""Schedules: how much of the variance each of the `K` steps renews.

A schedule is the array of the noise fractions $b_k \in (0, 1)$ of the stationary OU process (the paper's
$\alpha_{K-k}$), in sampling order, so $b_0$ is the step that leaves the prior. Their sum sets how far the ends are
apart: the target's signal is damped by $\prod_k \sqrt{1 - b_k} \approx e^{-\sum_k b_k / 2}$ on its way to the prior.

The authors' program sets $b_k = \alpha^2 \Delta_k$ on a grid with $\sum_k \Delta_k = T$; here that is `total`
$= \alpha^2 T$. A learned schedule needs no function: any array in $(0, 1)$ will do.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds.checks import require, require_values, typed


@typed
def cosine(steps: int, *, total: float, offset: float = 0.008) -> Float[Array, " steps"]:
    r"""The paper's schedule: ever smaller steps.

    $b_k \propto \cos^4\left(\frac{\pi}{2} \frac{k / K + s}{1 + s}\right)$.

    Args:
        steps: The number of steps `K`, at least 1.
        total: The sum of the fractions, positive.
        offset: The offset `s`, which keeps the last steps from vanishing.

    Returns:
        The fractions `b_k`.

    Raises:
        ValueError: If `steps` is below 1, or a fraction falls outside (0, 1), as when `total` is too large for `steps`.

    References:
        Vargas, Grathwohl and Doucet (2023), after the cosine schedule of Nichol and Dhariwal (2021). The authors' grid
        gives its last step the phase $\pi / 2$, hence length zero; here $k / K$ stays below one.

    Example:
        >>> fractions = cosine(64, total=3.7)
        >>> fractions.shape, round(float(fractions.sum()), 4)
        ((64,), 3.7)
    """
    _require_steps(steps)
    require(offset >= 0, "offset", offset, "at least 0")
    phase = (np.arange(steps) / steps + offset) / (1 + offset)
    return _normalise(np.cos(0.5 * np.pi * phase) ** 4, total)


@typed
def linear(steps: int, *, total: float, last: float = 0.01) -> Float[Array, " steps"]:
    r"""Fractions that fall linearly, $b_k \propto 1 - (1 - r)\,\frac{k}{K - 1}$.

    Args:
        steps: The number of steps `K`, at least 1.
        total: The sum of the fractions, positive.
        last: The last fraction as a share `r` of the first, positive.

    Returns:
        The fractions `b_k`.

    Raises:
        ValueError: If `steps` is below 1, or a fraction falls outside (0, 1).

    References:
        Ho, Jain and Abbeel (2020), section 4.

    Example:
        >>> linear(3, total=1.5, last=0.5).tolist()
        [0.6666666865348816, 0.5, 0.3333333432674408]
    """
    _require_steps(steps)
    require(last > 0, "last", last, "positive")
    return _normalise(np.linspace(1.0, last, steps), total)


@typed
def exponential(steps: int, *, total: float, last: float = 0.01) -> Float[Array, " steps"]:
    r"""Fractions that fall by the same factor at each step, $b_k \propto r^{k / (K - 1)}$.

    Args:
        steps: The number of steps `K`, at least 1.
        total: The sum of the fractions, positive.
        last: The last fraction as a share `r` of the first, positive.

    Returns:
        The fractions `b_k`.

    Raises:
        ValueError: If `steps` is below 1, or a fraction falls outside (0, 1).

    References:
        Song and Ermon (2019), whose noise levels are in geometric progression.

    Example:
        >>> exponential(3, total=0.875, last=0.25).tolist()
        [0.5, 0.25, 0.125]
    """
    _require_steps(steps)
    require(last > 0, "last", last, "positive")
    return _normalise(np.geomspace(1.0, last, steps), total)


@typed
def constant(steps: int, *, total: float) -> Float[Array, " steps"]:
    """The same fraction at every step, `b_k = total / K`.

    Args:
        steps: The number of steps `K`, at least 1.
        total: The sum of the fractions, positive.

    Returns:
        The fractions `b_k`.

    Raises:
        ValueError: If `steps` is below 1, or a fraction falls outside (0, 1).

    Example:
        >>> constant(4, total=2.0).tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    _require_steps(steps)
    return _normalise(np.ones(steps), total)


def _require_steps(steps: int) -> None:
    require(steps >= 1, "steps", steps, "at least 1")


def _normalise(shape: np.ndarray, total: float) -> Float[Array, " steps"]:
    # In the precision in which they are used, where a fraction near 1 is rounded to it.
    fractions = np.asarray(total * shape / shape.sum(), dtype=jnp.result_type(float))
    require_values(
        lambda b: (b > 0) & (b < 1),
        f"every noise fraction b_k (total = {total} over {len(shape)} steps)",
        fractions,
        "in (0, 1)",
    )
    return jnp.asarray(fractions)
