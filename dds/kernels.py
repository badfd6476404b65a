r"""The time reversal of the forward process, and the kernels that follow it.

In OU time the time reversal drifts with $y + 2 \nabla\log p_t(y)$. Written against the stationary process, whose
reversal is itself, this is $-y + 2u$ with the *control*

$$ u(y) = \nabla \log \frac{p_t(y)}{\mathcal N(y; 0, I)} = y + \nabla \log p_t(y), $$

which is zero when the target is the reference. (The paper has a reference of variance $\sigma^2$ and
$u = \sigma^2 \nabla \log \phi_t$; here $\sigma$ is the scale of the sampler's coordinates, $x = \sigma y$.)

A kernel gives the distributions of the *innovations* (`dds.types.Reference`), which are standard normal for the
reference: so the ratio of the two, which the weights need, is had without subtracting nearly equal states.

| kernel | forward | backward |
|---|---|---|
| `denoising`, on `ou` | $y_{k+1} \sim \mathcal N(\sqrt{1 - b_k}\,y + b_k u,\ b_k I)$ | the reference's: DDS |
| `denoising`, on `kinetic` | the same of the momentum | the reference's: underdamped DDS |
| `path_integral`, on `brownian` | $y_{k+1} \sim \mathcal N(y + \Delta_k u,\ \Delta_k I)$ | the Brownian bridge: PIS |
| `annealed`, on `ou` | a Langevin step, plus a control | a Langevin step, minus the control: CMCD |
| `gaussian`, on `ou` | the exact reversal for a normal target | the reference's |
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dds import references
from dds.checks import require, typed
from dds.types import Control, Kernel, Normal, Point, Row, State, Transitions


@typed
def control(y: State, score: State) -> State:
    r"""The control of a score, $u = y + \nabla \log p_t(y)$.

    Args:
        y: The state.
        score: The score of the marginal of the forward process at the state.

    Returns:
        The control.

    References:
        Vargas, Grathwohl and Doucet (2023), section 2.

    Example:
        >>> control(jnp.array([1.0, 2.0]), jnp.array([-1.0, -2.0])).tolist()
        [0.0, 0.0]
    """
    return y + score


@typed
def drift(y: State, score: State) -> State:
    r"""The drift of the time reversal in OU time, $y + 2 \nabla \log p_t(y) = -y + 2u$.

    Args:
        y: The state.
        score: The score of the marginal of the forward process at the state.

    Returns:
        The drift.

    References:
        Vargas, Grathwohl and Doucet (2023), section 2.

    Example:
        >>> drift(jnp.array([1.0, 2.0]), jnp.array([-1.0, -2.0])).tolist()
        [-1.0, -2.0]
    """
    return -y + 2 * control(y, score)


@typed
def bounded(score: Callable[[State], Point], clip: float | None) -> Callable[[State], Point]:
    """A score, each coordinate of which is bounded.

    A steep target has scores that no float can square: unbounded, one step can throw a path to where no gradient brings
    it back, and Langevin steps grow from one to the next. The weights stay exact whatever the bound.

    Args:
        score: The score, from a state.
        clip: The bound, positive, or `None` for none.

    Returns:
        The score.

    Raises:
        ValueError: If `clip` is not positive.

    Example:
        >>> bounded(lambda y: -(y**3), 10.0)(jnp.array([1.0, 5.0])).tolist()
        [-1.0, -10.0]
    """
    require(clip is None or clip > 0, "score_clip", clip, "positive or None")
    return score if clip is None else lambda y: jnp.clip(score(y), -clip, clip)


@typed
def denoising(fractions: Float[Array, " steps"], control: Control, rows: Row = None) -> Kernel:
    r"""The denoising kernel of DDS, $F_k(\cdot \mid y) = \mathcal N(\sqrt{1 - b_k}\,y + b_k u(y, k), b_k I)$.

    On the kinetic process the same innovation moves the momentum, and $u$ is a function of position and momentum.

    Args:
        fractions: The fractions $b_k$ of the reference process.
        control: The control, `(y, row) -> u`.
        rows: What the control is given of each step: a PyTree with leading axis `K`. By default the index `k`.

    Returns:
        The kernel: the innovation is $\mathcal N(\sqrt{b_k}\,u, I)$.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3; there the factor of the control is $2 (1 - \sqrt{1 - b}) = b
        + O(b^2)$, in the authors' program it is $b$, as here.

    Example:
        >>> kernel = denoising(jnp.full(8, 0.25), lambda y, k: -y / (k + 1))
        >>> kernel.apply(
        ...     jnp.ones(2), jax.tree.map(lambda row: row[0], kernel.rows)
        ... ).forward.mean.tolist()
        [-0.5, -0.5]
    """
    return _controlled(jnp.sqrt(fractions), control, rows)


@typed
def path_integral(times: Float[Array, " times"], control: Control, rows: Row = None) -> Kernel:
    r"""The kernel of PIS, $F_k(\cdot \mid y) = \mathcal N(y + \Delta_k u, \Delta_k I)$, $\Delta_k = t_{k+1} - t_k$.

    Args:
        times: The times of the Brownian motion, as in `dds.references.brownian`.
        control: The control, `(y, row) -> u`.
        rows: What the control is given of each step: a PyTree with leading axis `K`. By default the index `k`.

    Returns:
        The kernel: the innovation is $\mathcal N(\sqrt{\Delta_k}\,u, I)$.

    References:
        Zhang and Chen (2022), Path Integral Sampler, section 3.

    Example:
        >>> kernel = path_integral(jnp.array([0.5, 0.75, 1.0]), lambda y, k: -y)
        >>> kernel.apply(
        ...     jnp.ones(2), jax.tree.map(lambda row: row[0], kernel.rows)
        ... ).forward.mean.tolist()
        [-0.5, -0.5]
    """
    return _controlled(jnp.sqrt(jnp.diff(times)), control, rows)


@typed
def annealed(
    fractions: Float[Array, " steps"],
    temperatures: Float[Array, " states"],
    score: Callable[[State], State],
    control: Control,
    rows: Row = None,
) -> Kernel:
    r"""The kernel of CMCD: Langevin steps along an annealed target in both directions, and a control.

    Along $\log \pi_\beta = (1 - \beta) \log \mathcal N(0, I) + \beta \log \gamma$, with $s = y + \nabla \log
    \gamma(y)$,

    $$ F_k:\ \zeta \sim \mathcal N\bigl(\tfrac12 \sqrt{b_k}\,(\beta_k s + u), I\bigr) \text{ at } y_k, \qquad
       B_k:\ \eta \sim \mathcal N\bigl(\tfrac12 \sqrt{b_k}\,(\beta_{k+1} s - u), I\bigr) \text{ at } y_{k+1}. $$

    Without a control, and where $\beta$ does not change, the two reverse each other up to the error of a Langevin step.

    Args:
        fractions: The fractions $b_k$ of the reference process; a Langevin step has the size $b_k / 2$.
        temperatures: The inverse temperatures $\beta_0, \dots, \beta_K$.
        score: The score of the target, $\nabla \log \gamma$, in the sampler's coordinates.
        control: The control, `(y, row) -> u`.
        rows: What the control is given of each state: a PyTree with leading axis `K + 1`. By default the index `k`.

    Returns:
        The kernel.

    References:
        Vargas, Padhy, Blessing and Nüsken (2024), Transport meets Variational Inference: Controlled Monte Carlo
        Diffusions, section 3; there with Euler steps, here with those of the OU process.

    Example:
        >>> kernel = annealed(
        ...     jnp.full(2, 0.25),
        ...     jnp.array([0.0, 0.5, 1.0]),
        ...     lambda y: 0 * y,
        ...     lambda y, k: 0 * y,
        ... )
        >>> there = kernel.apply(
        ...     jnp.ones(1), jax.tree.map(lambda row: row[1], kernel.rows)
        ... )
        >>> there.forward.mean.tolist(), there.backward.mean.tolist()
        ([0.125], [0.125])
    """
    rows = jnp.arange(fractions.size + 1) if rows is None else rows

    def apply(y: State, row: Row) -> Transitions:
        row, beta, (ahead, back) = row
        slope, u, unit = beta * (y + score(y)), control(y, row), jnp.ones((), y.dtype)
        forward = Normal(0.5 * jnp.sqrt(ahead) * (slope + u), unit)
        return Transitions(forward, Normal(0.5 * jnp.sqrt(back) * (slope - u), unit))

    return Kernel((rows, temperatures, both_ways(fractions)), apply)


@typed
def gaussian_marginal(
    fractions: Float[Array, " steps"], mean: State, covariance: Float[Array, "dim dim"], k: int | Int[Array, ""] = 0
) -> Normal:
    r"""The distribution of $y_k$ when the target is normal.

    It is $\mathcal N(\sqrt{1 - \lambda_k}\,m,\; (1 - \lambda_k) C + \lambda_k I)$, with the noise levels
    $\lambda_k$ of `dds.references.noise_levels`.

    Args:
        fractions: The fractions $b_k$ of the OU process.
        mean: The mean `m` of the target.
        covariance: The covariance `C` of the target, positive definite.
        k: The state, in sampling order: 0 for the prior's end.

    Returns:
        The distribution.

    Example:
        >>> gaussian_marginal(
        ...     jnp.full(8, 0.5), jnp.ones(2), jnp.eye(2), 8
        ... ).mean.tolist()
        [1.0, 1.0]
    """
    level = references.noise_levels(fractions)[k]
    noised = (1 - level) * covariance + level * jnp.eye(mean.size, dtype=mean.dtype)
    return Normal(jnp.sqrt(1 - level) * mean, jnp.linalg.cholesky(noised))


@typed
def gaussian_control(fractions: Float[Array, " steps"], mean: State, covariance: Float[Array, "dim dim"]) -> Control:
    r"""The exact control when the target is normal, $u(y, k) = y - C_k^{-1} (y - m_k)$.

    Here $m_k$ and $C_k$ are mean and covariance of `gaussian_marginal`.

    Args:
        fractions: The fractions $b_k$ of the OU process.
        mean: The mean of the target.
        covariance: The covariance of the target, positive definite.

    Returns:
        The control, a function of the state and the index `k`.

    Example:
        >>> exact = gaussian_control(jnp.full(8, 0.5), jnp.zeros(2), jnp.eye(2))
        >>> bool(jnp.allclose(exact(jnp.ones(2), 3), 0.0, atol=1e-6))
        True
    """
    means, factors = _gaussian_marginals(fractions, mean, covariance)

    def exact(y: State, k: Row) -> State:
        return control(y, -jax.scipy.linalg.cho_solve((factors[k], True), y - means[k]))

    return exact


@typed
def gaussian(fractions: Float[Array, " steps"], mean: State, covariance: Float[Array, "dim dim"]) -> Kernel:
    r"""The exact reverse kernel of the OU process when the target is normal: Bayes' rule for $y_{k+1}$ given $y_k$.

    The innovation has mean $\sqrt{b_k / (1 - b_k)}\,u(y, k)$, with the exact control $u$, and covariance
    $C_{k+1} C_k^{-1}$. With the exact marginal as prior every path has the same weight, `Z`, at every `K`.

    Args:
        fractions: The fractions $b_k$ of the OU process.
        mean: The mean of the target.
        covariance: The covariance of the target, positive definite.

    Returns:
        The kernel.

    Example:
        >>> kernel = gaussian(jnp.full(8, 0.5), jnp.zeros(2), jnp.eye(2))
        >>> kernel.apply(
        ...     jnp.ones(2), jax.tree.map(lambda row: row[0], kernel.rows)
        ... ).forward.scale.shape
        (2, 2)
    """
    exact = gaussian_control(fractions, mean, covariance)
    _, factors = _gaussian_marginals(fractions, mean, covariance)

    def scale(before: Float[Array, "dim dim"], after: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
        # C_k and C_{k+1} have the same eigenvectors, so this product is symmetric.
        return jnp.linalg.cholesky(jax.scipy.linalg.cho_solve((before, True), after @ after.T))

    def apply(y: State, row: Row) -> Transitions:
        k, factor, scale = row
        return Transitions(Normal(factor * exact(y, k), scale))

    scales = jax.vmap(scale)(factors[:-1], factors[1:])
    return Kernel(_no_step_ahead((jnp.arange(fractions.size), jnp.sqrt(fractions / (1 - fractions)), scales)), apply)


@typed
def both_ways(fractions: Float[Array, " steps"]) -> tuple[Float[Array, " states"], Float[Array, " states"]]:
    """The fractions of the step ahead and of the step back, for each state: rows of a kernel of both directions.

    Of the last state there is no step ahead, of the first none back: what stands there is not used.

    Args:
        fractions: The fractions of the steps.

    Returns:
        Two arrays with one entry per state.

    Example:
        >>> [part.tolist() for part in both_ways(jnp.array([0.5, 0.25]))]
        [[0.5, 0.25, 0.0], [0.0, 0.5, 0.25]]
    """
    none = jnp.zeros(1, fractions.dtype)
    return jnp.concatenate([fractions, none]), jnp.concatenate([none, fractions])


def _controlled(factors: Float[Array, " steps"], control: Control, rows: Row) -> Kernel:
    """Innovations of unit variance whose mean is a control, times a factor of each step."""
    rows = jnp.arange(factors.size) if rows is None else rows

    def apply(y: State, row: Row) -> Transitions:
        row, factor = row
        return Transitions(Normal(factor * control(y, row), jnp.ones((), y.dtype)))

    return Kernel(_no_step_ahead((rows, factors)), apply)


def _no_step_ahead(rows: Row) -> Row:
    """Rows of the steps as rows of the states: no step leaves the last state, so what its row says is not used."""

    def extend(row):
        last = row[-1:] if len(row) else jnp.zeros((1, *row.shape[1:]), row.dtype)
        return jnp.concatenate([row, last])

    return jax.tree.map(extend, rows)


def _gaussian_marginals(fractions: Float[Array, " steps"], mean: State, covariance: Float[Array, "dim dim"]) -> Normal:
    """All marginals at once, so that a kernel that is applied at every step factorises nothing there."""
    indices = jnp.arange(fractions.size + 1)
    return jax.vmap(lambda k: gaussian_marginal(fractions, mean, covariance, k))(indices)
