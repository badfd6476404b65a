r"""The time reversal of the forward process, and the denoising kernels that follow it.

In OU time the time reversal drifts with $y + 2\sigma^2 \nabla\log p_t(y)$. Written against the stationary process,
whose reversal is itself, this is $-y + 2u$ with the *control*

$$ u(y) = \sigma^2 \nabla \log \frac{p_t(y)}{\mathcal N(y; 0, \sigma^2 I)} = y + \sigma^2 \nabla \log p_t(y) $$

(the paper's $\sigma^2 \nabla \log \phi_t$), which is zero when the target is the reference. The denoising kernel of
DDS is the reference step with the control added to its mean, $F_k(\cdot \mid y) = \mathcal N(\sqrt{1 - b_k}\,y + b_k
u(y, k),\; \sigma^2 b_k I)$.

A kernel is kept as the law of the *innovation* $(y_{k+1} - \sqrt{1 - b_k}\,y_k) / \sigma\sqrt{b_k}$, which is standard
normal for the reference: so the ratio of the two, which the weights need, is had without subtracting nearly equal
states.
"""

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, Int, jaxtyped

from dds import ou
from dds.types import OU, Control, Kernel, Laws, Normal, Row, Scalar, State


@jaxtyped(typechecker=beartype)
def control(y: State, score: State, sigma: Scalar) -> State:
    r"""The control of a score, $u = y + \sigma^2 \nabla \log p_t(y)$.

    Args:
        y: The state.
        score: The score of the marginal law of the forward process at the state.
        sigma: The stationary standard deviation.

    Returns:
        The control.

    References:
        Vargas, Grathwohl and Doucet (2023), section 2.

    Example:
        >>> y = jnp.array([1.0, 2.0])
        >>> control(y, -y / 4, jnp.array(2.0)).tolist()
        [0.0, 0.0]
    """
    return y + sigma**2 * score


@jaxtyped(typechecker=beartype)
def drift(y: State, score: State, sigma: Scalar) -> State:
    r"""The drift of the time reversal in OU time, $y + 2\sigma^2 \nabla \log p_t(y) = -y + 2u$.

    Args:
        y: The state.
        score: The score of the marginal law of the forward process at the state.
        sigma: The stationary standard deviation.

    Returns:
        The drift.

    References:
        Vargas, Grathwohl and Doucet (2023), section 2.

    Example:
        >>> y = jnp.array([1.0, 2.0])
        >>> drift(y, -y, jnp.array(1.0)).tolist()
        [-1.0, -2.0]
    """
    return -y + 2 * control(y, score, sigma)


@jaxtyped(typechecker=beartype)
def denoising_kernel(process: OU, control: Control, rows: Row = None) -> Kernel:
    r"""The denoising kernel of DDS for a control, $\mathcal N(\sqrt{1 - b_k}\,y + b_k u(y, k), \sigma^2 b_k I)$.

    Args:
        process: The reference process.
        control: The control, `(y, row) -> u`.
        rows: What the control is given of each step: a PyTree with leading axis `K`. By default the index `k`.

    Returns:
        The kernel, as the law of the innovation, $\mathcal N(\sqrt{b_k}\,u / \sigma, I)$.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3; there the factor of the control is $2 (1 - \sqrt{1 - b}) = b
        + O(b^2)$, in the authors' program it is $b$, as here.

    Example:
        >>> from dds import schedules
        >>> forward = ou.process(schedules.constant(8, total=4.0), 1.0)
        >>> kernel = denoising_kernel(forward, lambda y, k: -y / (k + 1))
        >>> kernel.apply(jnp.ones(2), (jnp.array(0), jnp.array(0.25))).denoising.mean.tolist()
        [-0.5, -0.5]
    """
    rows = jnp.arange(process.fractions.size) if rows is None else rows

    def apply(y: State, row: Row) -> Laws:
        row, fraction = row
        return Laws(Normal(jnp.sqrt(fraction) / process.sigma * control(y, row), jnp.ones((), y.dtype)))

    return Kernel(_no_step_ahead((rows, process.fractions)), apply)


@jaxtyped(typechecker=beartype)
def gaussian_marginal(
    process: OU, mean: State, covariance: Float[Array, "dim dim"], k: int | Int[Array, ""] = 0
) -> Normal:
    r"""The law of $y_k$ when the target is normal.

    It is $\mathcal N(\sqrt{1 - \lambda_k}\,m,\; (1 - \lambda_k) C + \lambda_k \sigma^2 I)$, with the
    `noise_levels` $\lambda_k$.

    Args:
        process: The process.
        mean: The mean `m` of the target.
        covariance: The covariance `C` of the target, positive definite.
        k: The state, in sampling order: 0 for the prior's end.

    Returns:
        The law.

    Example:
        >>> from dds import schedules
        >>> forward = ou.process(schedules.constant(8, total=4.0), 1.0)
        >>> gaussian_marginal(forward, jnp.ones(2), jnp.eye(2), 8).mean.tolist()
        [1.0, 1.0]
    """
    level = ou.noise_levels(process.fractions)[k]
    noised = (1 - level) * covariance + level * process.sigma**2 * jnp.eye(mean.size, dtype=mean.dtype)
    return Normal(jnp.sqrt(1 - level) * mean, jnp.linalg.cholesky(noised))


@jaxtyped(typechecker=beartype)
def gaussian_control(process: OU, mean: State, covariance: Float[Array, "dim dim"]) -> Control:
    r"""The exact control when the target is normal, $u(y, k) = y - \sigma^2 C_k^{-1} (y - m_k)$.

    Here $m_k$ and $C_k$ are mean and covariance of `gaussian_marginal`.

    Args:
        process: The process.
        mean: The mean of the target.
        covariance: The covariance of the target, positive definite.

    Returns:
        The control, a function of the state and the index `k`.

    Example:
        >>> from dds import schedules
        >>> forward = ou.process(schedules.constant(8, total=4.0), 2.0)
        >>> exact = gaussian_control(forward, jnp.zeros(2), 4.0 * jnp.eye(2))
        >>> bool(jnp.allclose(exact(jnp.ones(2), 3), 0.0, atol=1e-6))
        True
    """
    means, factors = _gaussian_marginals(process, mean, covariance)

    def exact(y: State, k: Row) -> State:
        return control(y, -jax.scipy.linalg.cho_solve((factors[k], True), y - means[k]), process.sigma)

    return exact


@jaxtyped(typechecker=beartype)
def gaussian_kernel(process: OU, mean: State, covariance: Float[Array, "dim dim"]) -> Kernel:
    r"""The exact reverse kernel when the target is normal: Bayes' rule for $y_{k+1}$ given $y_k$.

    The innovation has mean $\sqrt{b_k / (1 - b_k)}\,u(y, k) / \sigma$, with the exact control $u$, and covariance
    $C_{k+1} C_k^{-1}$. With the exact marginal as prior every path has the same weight, `Z`, at every
    `K`.

    Args:
        process: The process.
        mean: The mean of the target.
        covariance: The covariance of the target, positive definite.

    Returns:
        The kernel, as the law of the innovation.

    Example:
        >>> from dds import schedules
        >>> forward = ou.process(schedules.constant(8, total=4.0), 1.0)
        >>> kernel = gaussian_kernel(forward, jnp.zeros(2), jnp.eye(2))
        >>> kernel.apply(jnp.ones(2), jax.tree.map(lambda row: row[0], kernel.rows)).denoising.scale.shape
        (2, 2)
    """
    exact = gaussian_control(process, mean, covariance)
    _, factors = _gaussian_marginals(process, mean, covariance)

    def scale(before: Float[Array, "dim dim"], after: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
        # C_k and C_{k+1} have the same eigenvectors, so this product is symmetric.
        return jnp.linalg.cholesky(jax.scipy.linalg.cho_solve((before, True), after @ after.T))

    def apply(y: State, row: Row) -> Laws:
        k, fraction, scale = row
        return Laws(Normal(jnp.sqrt(fraction / (1 - fraction)) / process.sigma * exact(y, k), scale))

    scales = jax.vmap(scale)(factors[:-1], factors[1:])
    return Kernel(_no_step_ahead((jnp.arange(process.fractions.size), process.fractions, scales)), apply)


def _no_step_ahead(rows: Row) -> Row:
    """Rows of the steps as rows of the states: no step leaves the last state, so what its row says is not used."""
    return jax.tree.map(lambda row: jnp.concatenate([row, row[-1:]]), rows)


def _gaussian_marginals(process: OU, mean: State, covariance: Float[Array, "dim dim"]) -> Normal:
    """All marginals at once, so that a kernel that is applied at every step factorises nothing there."""
    indices = jnp.arange(process.fractions.size + 1)
    return jax.vmap(lambda k: gaussian_marginal(process, mean, covariance, k))(indices)
