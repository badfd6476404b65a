r"""The log weight of a path, and the losses that are views of it.

For any prior $p_0$, denoising kernels $F_k$, noising kernels $B_k$ and number of steps,

$$ \log w = \log \gamma(y_K) + \sum_k \log B_k(y_k \mid y_{k+1}) - \log p_0(y_0) - \sum_k \log F_k(y_{k+1} \mid y_k)
   \quad\text{has}\quad \mathbb E[w] = Z. $$

The reference process satisfies detailed balance with its stationary law $\pi = \mathcal N(0, \sigma^2 I)$, so with
its steps $R_k$, $R_k(y_k \mid y_{k+1})\,\pi(y_{k+1}) = R_k(y_{k+1} \mid y_k)\,\pi(y_k)$, and

$$ \log w = \log\frac{\gamma(y_K)}{\pi(y_K)} + \log\frac{\pi(y_0)}{p_0(y_0)}
   + \sum_k \log \frac{R_k(y_{k+1} \mid y_k)}{F_k(y_{k+1} \mid y_k)}
   + \sum_k \log \frac{B_k(y_k \mid y_{k+1})}{R_k(y_k \mid y_{k+1})}, $$

the paper's form: for DDS the last sum is zero and each term of the first is $-\sqrt{b_k}\,u \cdot \epsilon_k / \sigma -
b_k \lVert u \rVert^2 / 2\sigma^2$. It is the one computed here, for in it no two large numbers cancel.

| loss | paths | view |
|---|---|---|
| reverse KL, the paper's | `sample_path` | `reverse_kl` |
| the same with the sticking-the-landing gradient | `sample_path(..., freeze_laws=True)` | `reverse_kl` |
| forward KL | `retrace` of a `noise_path` from points of the target | `forward_kl` |
| log-variance | `retrace` of a trajectory under `jax.lax.stop_gradient` | `log_variance` |
"""

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

from dds import normal, ou
from dds.checks import require
from dds.types import OU, LogDensity, Normal, Path, Scalar, State


@jaxtyped(typechecker=beartype)
def log_weight(path: Path, reference: OU, log_density: LogDensity) -> Scalar:
    r"""The log importance weight of one path, $\log w$ with $\mathbb E[w] = Z$ over the paths of the sampler.

    Args:
        path: The path, of `dds.sampler.sample_path` or `dds.sampler.retrace`.
        reference: The reference process of the sampler.
        log_density: The log density of the target, unnormalised.

    Returns:
        The log weight.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3.

    Example:
        >>> from dds import ou, reversal, sampler, schedules, types
        >>> reference = ou.process(schedules.cosine(8, total=2.0), 1.0)
        >>> zero = reversal.denoising_kernel(reference, lambda y, k: jnp.zeros_like(y))
        >>> prior = ou.stationary(reference, 2)
        >>> path = sampler.sample_path(jax.random.key(0), types.Sampler(prior, reference, zero))
        >>> float(log_weight(path, reference, lambda x: normal.log_density(prior, x)))
        0.0
    """
    (states, innovations), prior, denoising, noising = path
    stationary = ou.stationary(reference, states.shape[1])
    terminal = log_density(states[-1]) - normal.log_density(stationary, states[-1])
    initial = normal.log_ratio(stationary, prior, states[0])
    log_w = terminal + initial - _log_departure(denoising, innovations)
    if noising is None:
        return log_w
    fractions = reference.fractions[:, None]
    back = jnp.sqrt(fractions) * states[:-1] / reference.sigma - jnp.sqrt(1 - fractions) * innovations
    return log_w + _log_departure(noising, back)


def _log_departure(laws: Normal, innovations: Float[Array, "steps dim"]) -> Scalar:
    """How much likelier innovations are under given laws than under the reference process, summed over the steps."""

    def step(law: Normal, innovation: State) -> Scalar:
        reference = Normal(jnp.zeros_like(innovation), jnp.ones((), innovation.dtype))
        return normal.log_ratio(law, reference, innovation)

    return jnp.sum(jax.vmap(step)(laws, innovations))


@jaxtyped(typechecker=beartype)
def reverse_kl(log_weights: Float[Array, " paths"]) -> Scalar:
    r"""The paper's loss, $-\frac1N \sum_n \log w_n$.

    It estimates the Kullback-Leibler divergence from the law of the sampler's paths to that of the noised target, less
    $\log Z$.

    Args:
        log_weights: Log weights of paths of the sampler, with gradients flowing through the paths.

    Returns:
        The loss, the negative of the ELBO.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3.

    Example:
        >>> float(reverse_kl(jnp.array([-1.0, -3.0])))
        2.0
    """
    return -jnp.mean(log_weights)


@jaxtyped(typechecker=beartype)
def forward_kl(log_weights: Float[Array, " paths"]) -> Scalar:
    r"""The loss that covers modes, $\frac1N \sum_n \log w_n$ over paths noised back from points of the target.

    It estimates the Kullback-Leibler divergence from the law of the noised target to that of the sampler's paths, plus
    $\log Z$. Where the sampler does not go, it is large; but it needs points of the target, as of
    `dds.exploration.temper`, and is as right as they are.

    Args:
        log_weights: Log weights of paths noised back, with gradients flowing through the paths.

    Returns:
        The loss, the EUBO if the points are exact.

    References:
        Blessing, Jia, Esslinger, Vargas and Neumann (2024), section 3, for the divergence.

    Example:
        >>> float(forward_kl(jnp.array([-1.0, -3.0])))
        -2.0
    """
    return jnp.mean(log_weights)


@jaxtyped(typechecker=beartype)
def log_variance(log_weights: Float[Array, " paths"]) -> Scalar:
    r"""The log-variance loss, $\mathrm{Var}_n[\log w_n]$ over paths that carry no gradient themselves.

    Args:
        log_weights: Log weights of two or more paths, of any origin, retraced from trajectories under
            `jax.lax.stop_gradient`.

    Returns:
        The loss, unbiased for the variance.

    Raises:
        ValueError: If there are fewer than two paths.

    References:
        Richter and Berner (2024), section 3.

    Example:
        >>> float(log_variance(jnp.array([-1.0, -3.0])))
        2.0
    """
    require(log_weights.size >= 2, "log_weights", f"{log_weights.size} of them", "two or more")
    return jnp.var(log_weights, ddof=1)
