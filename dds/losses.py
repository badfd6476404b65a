r"""The log weight of a path, and the losses that are views of it.

For any prior $p_0$, denoising kernels $F_k$, noising kernels $B_k$ and number of steps,

$$ \begin{aligned} \log w &= \log \gamma(y_K) + \sum_k \log B_k(y_k \mid y_{k+1}) \\
   &\quad - \log p_0(y_0) - \sum_k \log F_k(y_{k+1} \mid y_k) \end{aligned}
   \quad\text{has}\quad \mathbb E[w] = Z. $$

The reference process and its reversal satisfy
$R_k(y_{k+1} \mid y_k)\,\pi_k(y_k) = R^*_k(y_k \mid y_{k+1})\,\pi_{k+1}(y_{k+1})$, so

$$ \begin{aligned} \log w &= \log\gamma(y_K) - \log p_0(y_0) + \log\frac{\pi_0(y_0)}{\pi_K(y_K)} \\
   &\quad - \sum_k \log \frac{F_k(y_{k+1} \mid y_k)}{R_k(y_{k+1} \mid y_k)}
   + \sum_k \log \frac{B_k(y_k \mid y_{k+1})}{R^*_k(y_k \mid y_{k+1})}, \end{aligned} $$

the paper's form: for DDS the last sum is zero and each term of the first is $\sqrt{b_k}\,u \cdot \epsilon_k +
b_k \lVert u \rVert^2 / 2$. It is the one computed here, for in it no densities of single steps cancel, which are huge
where steps are small. A path brings all of it but $\gamma$.

A loss is a function of `(sampler, key)`; what else it takes is bound by `functools.partial` or a closure.

| loss | paths |
|---|---|
| `reverse_kl`, the paper's; also with the sticking-the-landing gradient | the sampler's own |
| `forward_kl` | noised from points of the target |
| `log_variance` | the sampler's own, as constants |
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dds import devices
from dds.checks import require, typed
from dds.paths import noise_path, retrace, sample_path
from dds.types import Arrays, KeyArray, LogDensity, LogWeights, Path, Sampler, Scalar, State


@typed
def log_weight(path: Path, log_density: LogDensity) -> Scalar:
    r"""The log importance weight of one path, $\log w$ with $\mathbb E[w] = Z$ over the paths of the sampler.

    Args:
        path: The path, of `dds.paths.sample_path`, `noise_path` or `retrace`.
        log_density: The log density of the target, unnormalised, in the user's coordinates.

    Returns:
        The log weight.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> path = sample_path(
        ...     jax.random.key(0), family.sampler(family.init(jax.random.key(0)))
        ... )
        >>> float(
        ...     log_weight(
        ...         path, lambda x: normal.log_density(normal.standard(2), x) + 3
        ...     )
        ... )
        3.0
    """
    steps = jnp.sum(path.log_backward - path.log_forward)
    return log_density(path.x) - path.log_prior + path.log_reference + steps


@typed
def log_weights(
    sampler: Sampler, key: KeyArray, log_density: LogDensity, paths: int, *, stick_the_landing: bool = False
) -> LogWeights:
    """Log weights of many paths of a sampler, all at once: the start of a loss of your own.

    Args:
        sampler: The sampler.
        key: The random key.
        log_density: The log density of the target.
        paths: The number of paths, at least 1.
        stick_the_landing: As in `dds.paths.sample_path`.

    Returns:
        The log weights.

    Raises:
        ValueError: If `paths` is below 1.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> log_weights(sampler, jax.random.key(1), lambda x: -x @ x, 10).shape
        (10,)
    """
    require(paths >= 1, "paths", paths, "at least 1")

    def one(key: KeyArray) -> Scalar:
        return log_weight(sample_path(key, sampler, stick_the_landing=stick_the_landing), log_density)

    return devices.share(one)(jax.random.split(key, paths))


@typed
def with_finite_gradient(log_density: LogDensity) -> LogDensity:
    """A density with the same values, whose gradient is zero in coordinates in which it is not finite.

    Where a density overflows, one path in a batch would make the gradient of a loss not a number.

    Args:
        log_density: The log density.

    Returns:
        The log density.

    Example:
        >>> steep = with_finite_gradient(lambda x: jnp.sum(jnp.sqrt(x)))
        >>> jax.grad(steep)(jnp.array([0.0, 1.0])).tolist()
        [0.0, 0.5]
    """
    return lambda x: log_density(_finite_cotangent(x))


@jax.custom_vjp
def _finite_cotangent(x: State) -> State:
    return x


_finite_cotangent.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.where(jnp.isfinite(cotangent), cotangent, 0),))


def _mean_of_finite(log_weights: LogWeights) -> Scalar:
    """The mean without the paths whose weight is zero or overflows; `evaluation` reports them, training drops them."""
    finite = jnp.isfinite(log_weights)
    return jnp.sum(jnp.where(finite, log_weights, 0)) / jnp.maximum(jnp.sum(finite), 1)


@typed
def reverse_kl(
    sampler: Sampler, key: KeyArray, *, log_density: LogDensity, paths: int, stick_the_landing: bool = True
) -> Scalar:
    r"""The paper's loss, $-\frac1N \sum_n \log w_n$ over paths of the sampler.

    It estimates the Kullback-Leibler divergence from the distribution of the sampler's paths to that of the noised
    target, less $\log Z$.

    Args:
        sampler: The sampler.
        key: The random key.
        log_density: The log density of the target.
        paths: The number of paths, at least 1.
        stick_the_landing: Whether the gradient is the sticking-the-landing one, of less variance near the optimum.

    Returns:
        The loss, the negative of the ELBO over the paths whose weight is finite.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x) + 3
        >>> float(
        ...     reverse_kl(
        ...         sampler, jax.random.key(1), log_density=log_density, paths=10
        ...     )
        ... )
        -3.0
    """
    return -_mean_of_finite(log_weights(sampler, key, log_density, paths, stick_the_landing=stick_the_landing))


@typed
def forward_kl(
    sampler: Sampler, key: KeyArray, *, log_density: LogDensity, points: Float[Arrays, "points dim"], paths: int
) -> Scalar:
    r"""The loss that covers modes, $\frac1N \sum_n \log w_n$ over paths noised from points of the target.

    It estimates the Kullback-Leibler divergence from the distribution of the noised target to that of the sampler's
    paths, plus $\log Z$. Where the sampler does not go, it is large; but it needs points of the target, as of
    `dds.smc.temper`, and is as right as they are.

    Args:
        sampler: The sampler.
        key: The random key.
        log_density: The log density of the target.
        points: Points of the target, in the user's coordinates.
        paths: The number of paths, at least 1; each starts from one of the points, drawn at random.

    Returns:
        The loss, the EUBO if the points are exact.

    Raises:
        ValueError: If `paths` is below 1.

    References:
        Blessing, Jia, Esslinger, Vargas and Neumann (2024), section 3, for the divergence.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x) + 3
        >>> float(
        ...     forward_kl(
        ...         sampler,
        ...         jax.random.key(1),
        ...         log_density=log_density,
        ...         points=jnp.eye(2),
        ...         paths=10,
        ...     )
        ... )
        3.0
    """
    require(paths >= 1, "paths", paths, "at least 1")
    choose_key, noise_key = jax.random.split(key)
    x = jax.random.choice(choose_key, points, (paths,))

    def one(key: KeyArray, x) -> Scalar:
        return log_weight(noise_path(key, sampler, x), log_density)

    return _mean_of_finite(devices.share(one)(jax.random.split(noise_key, paths), x))


@typed
def log_variance(sampler: Sampler, key: KeyArray, *, log_density: LogDensity, paths: int) -> Scalar:
    r"""The log-variance loss, $\mathrm{Var}_n[\log w_n]$ over paths that carry no gradient themselves.

    All steps of a path are evaluated in one call, without a scan, and no activations are stored between steps. Paths of
    another origin are retraced in the same way: three lines with `dds.paths.retrace`.

    Args:
        sampler: The sampler.
        key: The random key.
        log_density: The log density of the target.
        paths: The number of paths, at least 2.

    Returns:
        The loss, unbiased for the variance.

    Raises:
        ValueError: If there are fewer than two paths.

    References:
        Richter and Berner (2024), section 3.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x) + 3
        >>> float(
        ...     log_variance(
        ...         sampler, jax.random.key(1), log_density=log_density, paths=10
        ...     )
        ... )
        0.0
    """
    require(paths >= 2, "paths", paths, "two or more")

    def one(key: KeyArray) -> Scalar:
        states = jax.lax.stop_gradient(sample_path(key, sampler).states)
        return log_weight(retrace(states, sampler), log_density)

    return jnp.var(devices.share(one)(jax.random.split(key, paths)), ddof=1)
