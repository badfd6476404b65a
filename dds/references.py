r"""Reference processes: the forward process of the paper, and the others that kernels can be written against.

Each is a Gaussian process with known marginals and exact steps, in coordinates in which it ends in $\mathcal N(0, I)$;
a scale such as the paper's $\sigma$ belongs to the coordinates of the sampler. All that a step of any of them does with
noise is one reflection of two standard normal numbers,

$$ \begin{pmatrix} a' \\ \eta \end{pmatrix} =
   \begin{pmatrix} \sqrt{1 - b} & \sqrt b \\ \sqrt b & -\sqrt{1 - b} \end{pmatrix}
   \begin{pmatrix} a \\ \zeta \end{pmatrix}, $$

which is its own inverse, and leaves two independent standard normal numbers as they are. So $\zeta$ is the noise of the
step ahead, $\eta$ that of the step back, and the process and its reversal satisfy
$R_k(y_{k+1} \mid y_k)\, \pi_k(y_k) = R^*_k(y_k \mid y_{k+1})\, \pi_{k+1}(y_{k+1})$ exactly.

| process | state | $a$ | used by |
|---|---|---|---|
| `ou` | position | $y$ | DDS, CMCD, the learned sampler |
| `brownian` | position | $y / \sqrt{t}$ | PIS |
| `kinetic` | position, momentum | momentum, then a rotation | underdamped DDS |
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import normal
from dds.checks import require, require_values, typed
from dds.types import Normal, Point, Reference, Row, Scalar, State


@typed
def ou(fractions: Float[Array, " steps"], dim: int) -> Reference:
    r"""The stationary Ornstein-Uhlenbeck process, $y_{k+1} = \sqrt{1 - b_k}\, y_k + \sqrt{b_k}\, \zeta_k$.

    In OU time it is $dx = -x\,dt + \sqrt2\,dW$, and a step of length $\Delta t$ renews the fraction
    $b = 1 - e^{-2 \Delta t}$ of the variance. Its marginals are $\mathcal N(0, I)$, and it is its own reversal.

    Args:
        fractions: The fraction $b_k$ of the variance that each step renews, in (0, 1), in sampling order: see
            `dds.schedules`. An empty array is a process of no steps, and its sampler an importance sampler.
        dim: The dimension, at least 1.

    Returns:
        The process.

    Raises:
        ValueError: If a fraction is outside (0, 1) or `dim` is below 1. Traced values, as of a learned schedule, are
            not checked.

    References:
        Vargas, Grathwohl and Doucet (2023), section 2, after a change of time.

    Example:
        >>> process = ou(jnp.array([0.75]), 1)
        >>> y, eta = process.ahead(jnp.array([2.0]), jnp.array([0.0]), jnp.array(0.75))
        >>> y.tolist(), process.back(y, eta, jnp.array(0.75))[0].tolist()
        ([1.0], [2.0])
    """
    require(dim >= 1, "dim", dim, "at least 1")
    _require_fractions(fractions)

    def innovations(y: State, after: State, b: Row) -> tuple[State, State]:
        keep, root = jnp.sqrt(1 - b), jnp.sqrt(b)
        return (after - keep * y) / root, (y - keep * after) / root

    return Reference(_standard(dim, fractions), _standard(dim, fractions), fractions, reflect, reflect, innovations)


@typed
def brownian(times: Float[Array, " times"], dim: int) -> Reference:
    r"""Brownian motion from the origin, after its first step, $y_{k+1} = y_k + \sqrt{t_{k+1} - t_k}\, \zeta_k$.

    Its marginals are $\mathcal N(0, t_k I)$, and its reversal is the Brownian bridge to the origin,
    $y_k \mid y_{k+1} \sim \mathcal N\bigl(\tfrac{t_k}{t_{k+1}} y_{k+1},\,
    \tfrac{t_k (t_{k+1} - t_k)}{t_{k+1}} I\bigr)$.

    Args:
        times: $0 < t_0 < \dots < t_K$; the first step, from the origin to $t_0$, is the prior.
        dim: The dimension, at least 1.

    Returns:
        The process.

    Raises:
        ValueError: If there is no time, times are not positive and increasing, or `dim` is below 1.

    References:
        Zhang and Chen (2022), Path Integral Sampler, section 3.

    Example:
        >>> process = brownian(jnp.array([0.25, 1.0]), 1)
        >>> y, eta = process.ahead(
        ...     jnp.array([0.5]), jnp.array([0.0]), jnp.array([0.25, 1.0])
        ... )
        >>> (
        ...     y.tolist(),
        ...     round(float(process.back(y, eta, jnp.array([0.25, 1.0]))[0][0]), 6),
        ... )
        ([0.5], 0.5)
    """
    require(dim >= 1, "dim", dim, "at least 1")
    require(times.size >= 1, "times", "none", "one or more")
    require_values(lambda t: (t > 0) & (t < jnp.inf), "times", times, "positive and finite")
    require_values(lambda t: t > 0, "the differences of times", jnp.diff(times), "positive")

    def ahead(y: State, zeta: State, row: Row) -> tuple[State, State]:
        now, then = row
        a, eta = reflect(y / jnp.sqrt(now), zeta, (then - now) / then)
        return a * jnp.sqrt(then), eta

    def back(y: State, eta: State, row: Row) -> tuple[State, State]:
        now, then = row
        a, zeta = reflect(y / jnp.sqrt(then), eta, (then - now) / then)
        return a * jnp.sqrt(now), zeta

    def innovations(y: State, after: State, row: Row) -> tuple[State, State]:
        now, then = row
        bridge = now / then
        return (after - y) / jnp.sqrt(then - now), (y - bridge * after) / jnp.sqrt(bridge * (then - now))

    def marginal(time: Scalar) -> Normal:
        return Normal(jnp.zeros(dim, times.dtype), jnp.sqrt(time))

    rows = jnp.stack([times[:-1], times[1:]], axis=1)
    return Reference(marginal(times[0]), marginal(times[-1]), rows, ahead, back, innovations)


@typed
def kinetic(fractions: Float[Array, " steps"], angles: Float[Array, " steps"], dim: int) -> Reference:
    r"""The stationary kinetic OU process of position and momentum $(x, v)$, whose noise enters through the momentum.

    A step renews the fraction $b_k$ of the momentum's variance and then moves along the Hamiltonian flow of a standard
    normal target, a rotation:

    $$ v' = \sqrt{1 - b_k}\, v + \sqrt{b_k}\, \zeta_k, \qquad
       x_{k+1} = \cos(\theta_k)\, x_k + \sin(\theta_k)\, v', \quad
       v_{k+1} = \cos(\theta_k)\, v' - \sin(\theta_k)\, x_k. $$

    Both parts are exact. Its marginals are $\mathcal N(0, I)$ in $2d$ dimensions, and its reversal turns back and
    renews the same fraction: the process itself with the momentum flipped.

    Args:
        fractions: The fractions $b_k$, in (0, 1).
        angles: The angles $\theta_k$, which are the lengths of the steps in time. They are not learned: the steps of
            two samplers with different angles have no ratio.
        dim: The dimension `d` of the position, at least 1. A state is the position, then the momentum.

    Returns:
        The process.

    Raises:
        ValueError: If a fraction is outside (0, 1), an angle is not finite or `dim` is below 1.

    References:
        Dockhorn, Vahdat and Kreis (2022), section 3, for the process; Blessing, Berner, Richter and Neumann (2025) for
        samplers.

    Example:
        >>> process = kinetic(jnp.array([0.5]), jnp.array([jnp.pi / 2]), 1)
        >>> y, eta = process.ahead(
        ...     jnp.array([1.0, 0.0]), jnp.zeros(1), jnp.array([0.5, jnp.pi / 2])
        ... )
        >>> [round(value, 6) + 0.0 for value in y.tolist()]
        [0.0, -1.0]
    """
    require(dim >= 1, "dim", dim, "at least 1")
    _require_fractions(fractions)
    require_values(jnp.isfinite, "angles", angles, "finite")

    def turn(position: Point, momentum: Point, angle: Scalar) -> State:
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([cos * position + sin * momentum, cos * momentum - sin * position])

    def ahead(y: State, zeta: Point, row: Row) -> tuple[State, Point]:
        momentum, eta = reflect(y[dim:], zeta, row[0])
        return turn(y[:dim], momentum, row[1]), eta

    def back(y: State, eta: Point, row: Row) -> tuple[State, Point]:
        turned = turn(y[:dim], y[dim:], -row[1])
        momentum, zeta = reflect(turned[dim:], eta, row[0])
        return jnp.concatenate([turned[:dim], momentum]), zeta

    def innovations(y: State, after: State, row: Row) -> tuple[Point, Point]:
        keep, root = jnp.sqrt(1 - row[0]), jnp.sqrt(row[0])
        before, renewed = y[dim:], turn(after[:dim], after[dim:], -row[1])[dim:]
        return (renewed - keep * before) / root, (before - keep * renewed) / root

    rows = jnp.stack([fractions, angles], axis=1)
    return Reference(_standard(2 * dim, fractions), _standard(2 * dim, fractions), rows, ahead, back, innovations)


@typed
def reflect(a: State, noise: State, fraction: Scalar) -> tuple[State, State]:
    r"""The reflection of two numbers, $(\sqrt{1-b}\,a + \sqrt b\,\zeta,\ \sqrt b\,a - \sqrt{1-b}\,\zeta)$.

    Args:
        a: The first number, in every coordinate.
        noise: The second, $\zeta$.
        fraction: The fraction $b$.

    Returns:
        Both after the reflection; a second one brings them back.

    Example:
        >>> a, eta = reflect(jnp.array([1.0]), jnp.array([3.0]), jnp.array(0.25))
        >>> [round(value.item(), 5) for value in reflect(a, eta, jnp.array(0.25))]
        [1.0, 3.0]
    """
    keep, root = jnp.sqrt(1 - fraction), jnp.sqrt(fraction)
    return keep * a + root * noise, root * a - keep * noise


@typed
def noise_levels(fractions: Float[Array, " steps"]) -> Float[Array, " steps+1"]:
    r"""The noise fraction of each OU state given the last one, $\lambda_k = 1 - \prod_{j \ge k} (1 - b_j)$.

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


def _standard(dim: int, like: Float[Array, " steps"]) -> Normal:
    return Normal(*(part.astype(like.dtype) for part in normal.standard(dim)))


def _require_fractions(fractions: Float[Array, " steps"]) -> None:
    require_values(lambda b: (b > 0) & (b < 1), "fractions", fractions, "in (0, 1)")
