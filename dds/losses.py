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
| `log_variance`, `trajectory_balance`, `sub_trajectory_balance` | of any origin (`dds.origins`), as constants |
| `adjoint_matching` | the same; it is of their ends alone, and of no weights |
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import devices, kernels, normal, origins
from dds.checks import require, typed
from dds.paths import end_potential, noise_path, potentials, pull_back, retrace, sample_path, steps
from dds.types import Arrays, KeyArray, LogDensity, LogWeights, Origin, Path, Sampler, Scalar, State


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
def log_weights_along(path: Path, sampler: Sampler, log_density: LogDensity) -> Float[Array, " states"]:
    r"""The log weight of a path up to each of its states, by the sampler's potentials.

    $$ \begin{aligned} a_k &= \log G_k(y_k) - \log \frac{p_0(y_0)}{\pi_0(y_0)} \\
       &\quad - \sum_{i < k} \log \frac{F_i(y_{i+1} \mid y_i)}{R_i(y_{i+1} \mid y_i)} \\
       &\quad + \sum_{i < k} \log \frac{B_i(y_i \mid y_{i+1})}{R^*_i(y_i \mid y_{i+1})}, \end{aligned} $$

    so that $a_0$ is the guess of $\log Z$, and $a_K$ the log weight. If all potentials, kernels and the guess are
    right, they are all $\log Z$.

    Args:
        path: A path of one step or more.
        sampler: The sampler that it is a path of, with `potentials`.
        log_density: The log density of the target.

    Returns:
        The log weights.

    Raises:
        ValueError: If the sampler has no `potentials`.

    References:
        Zhang, Chen, Liu, Courville and Bengio (2024), Diffusion Generative Flow Samplers, section 3.

    Example:
        >>> from dds import families, normal, schedules
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x)
        >>> plain = families.learned(log_density, schedules.constant(2, total=1.0), 2)
        >>> family = families.with_potentials(plain, log_density)
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> path = sample_path(jax.random.key(1), sampler)
        >>> along = log_weights_along(path, sampler, log_density)
        >>> along.shape, bool(jnp.all(jnp.abs(along) < 1e-5))
        ((3,), True)
    """
    log_z, rows, apply = potentials(sampler)
    inner = jax.vmap(apply)(path.states[1:-1], rows)
    before = normal.log_density(sampler.reference.start, path.states[0]) - path.log_prior
    steps = jnp.cumsum(path.log_backward - path.log_forward)[:-1]
    return jnp.concatenate([log_z[None], inner + before + steps, log_weight(path, log_density)[None]])


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
def log_variance(
    sampler: Sampler, key: KeyArray, *, log_density: LogDensity, paths: int, origin: Origin = origins.own
) -> Scalar:
    r"""The log-variance loss, $\mathrm{Var}_n[\log w_n]$ over paths that carry no gradient themselves.

    All steps of a path are evaluated in one call, without a scan, and no activations are stored between steps. Over the
    sampler's own paths, and with a noising process that is not learned, half of its gradient is that of the reverse KL
    divergence by the log-derivative (score function, REINFORCE) with the mean of the other paths as baseline.

    Args:
        sampler: The sampler.
        key: The random key.
        log_density: The log density of the target.
        paths: The number of paths, at least 2.
        origin: Where the paths come from (`dds.origins`).

    Returns:
        The loss, unbiased for the variance.

    Raises:
        ValueError: If there are fewer than two paths.

    References:
        Richter and Berner (2024), section 3; Richter, Boustati, Nüsken, Ruiz and Akyildiz (2020), for the gradient.

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
    log_w = _of_constant_paths(sampler, key, paths, origin, lambda path: log_weight(path, log_density))
    return jnp.var(log_w, ddof=1)


@typed
def trajectory_balance(
    sampler: Sampler, key: KeyArray, *, log_density: LogDensity, paths: int, origin: Origin = origins.own
) -> Scalar:
    r"""The trajectory balance loss, $\frac1N \sum_n (\log w_n - \log \hat Z)^2$, with a learned $\log \hat Z$.

    As `log_variance`, but for what stands in place of the mean over the batch: so it can do with a single path.

    Args:
        sampler: The sampler, with `potentials`, of which it takes `log_z` alone.
        key: The random key.
        log_density: The log density of the target.
        paths: The number of paths, at least 1.
        origin: Where the paths come from (`dds.origins`).

    Returns:
        The loss, over the paths whose weight is finite.

    Raises:
        ValueError: If `paths` is below 1, or the sampler has no `potentials`.

    References:
        Malkin, Jain, Bengio, Sun and Bengio (2022), section 3.

    Example:
        >>> from dds import families, normal
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x) + 3
        >>> plain = families.importance(normal.standard(2))
        >>> family = families.with_potentials(plain, log_density)
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> float(
        ...     trajectory_balance(
        ...         sampler, jax.random.key(1), log_density=log_density, paths=10
        ...     )
        ... )
        9.0
    """
    require(paths >= 1, "paths", paths, "at least 1")
    log_z = potentials(sampler).log_z
    log_w = _of_constant_paths(sampler, key, paths, origin, lambda path: log_weight(path, log_density))
    return _mean_of_finite(jnp.where(jnp.isfinite(log_w), log_w - log_z, 0) ** 2)


@typed
def sub_trajectory_balance(
    sampler: Sampler,
    key: KeyArray,
    *,
    log_density: LogDensity,
    paths: int,
    decay: float = 0.9,
    origin: Origin = origins.own,
) -> Scalar:
    r"""Trajectory balance of all parts of a path, $\sum_{i < j} \lambda^{j - i} (a_j - a_i)^2$ over the sum of weights.

    With the $a_k$ of `log_weights_along`, $a_K - a_0$ is the term of trajectory balance, and the others are its terms
    for a path from $y_i$ to $y_j$.

    Args:
        sampler: The sampler, with `potentials`.
        key: The random key.
        log_density: The log density of the target.
        paths: The number of paths, at least 1.
        decay: The weight $\lambda$ of each further step, positive: below 1, short parts count for more.
        origin: Where the paths come from (`dds.origins`).

    Returns:
        The loss, over the paths all of whose parts are finite.

    Raises:
        ValueError: If `paths` is below 1, `decay` is not positive, or the sampler has no `potentials`.

    References:
        Madan, Rector-Brooks, Korablyov, Bengio, Jain, Nica, Bosc, Bengio and Malkin (2023), section 3.

    Example:
        >>> from dds import families, normal, schedules
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x)
        >>> plain = families.learned(log_density, schedules.constant(4, total=2.0), 2)
        >>> family = families.with_potentials(plain, log_density)
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> loss = sub_trajectory_balance(
        ...     sampler, jax.random.key(1), log_density=log_density, paths=10
        ... )
        >>> bool(loss < 1e-9)
        True
    """
    require(paths >= 1, "paths", paths, "at least 1")
    require(0 < decay < float("inf"), "decay", decay, "positive and finite")
    along = _of_constant_paths(sampler, key, paths, origin, lambda path: log_weights_along(path, sampler, log_density))
    finite = jnp.isfinite(along).all(axis=1)
    along = jnp.where(finite[:, None], along, 0)
    ends = jnp.arange(along.shape[1])
    lengths = ends[None] - ends[:, None]
    weights = jnp.where(lengths > 0, jnp.asarray(decay, along.dtype) ** lengths, 0)
    squares = jnp.einsum("ij,nij->n", weights, (along[:, None] - along[:, :, None]) ** 2) / jnp.sum(weights)
    return jnp.sum(squares) / jnp.maximum(jnp.sum(finite), 1)


@typed
def adjoint_matching(
    sampler: Sampler,
    key: KeyArray,
    *,
    log_density: LogDensity,
    paths: int,
    origin: Origin = origins.own,
    score_clip: float | None = None,
) -> Scalar:
    r"""The adjoint matching loss, which asks the density for one gradient a path, where the path ends.

    Under the reference process reweighted by $\gamma / \pi_K$, whose ends are the target, the innovation of a step has
    the mean

    $$ \begin{aligned} \mathbb E[\zeta_k \mid y_k] &=
       \mathbb E\bigl[J_k^\top \nabla \log \tfrac{\gamma}{\pi_K}(y_K) \bigm| y_k\bigr], \\
       J_k &= \frac{\partial y_K}{\partial \zeta_k}, \end{aligned} $$

    by Stein's lemma, for $y_K$ is linear in the noise of a reference. So the mean $m_k$ of the sampler's innovations is
    fitted to what stands in the brackets, the adjoint state of the reference, by least squares:

    $$ \begin{aligned} \frac1N \sum_n \sum_k \tfrac12 \bigl\lVert &m_k(y_k) \\
       &- J_k^\top \nabla \log \tfrac{\gamma}{\pi_K}(y_K) \bigr\rVert^2. \end{aligned} $$

    Over paths noised from points of the target this is exact at every number of steps. Over the sampler's own, and over
    those noised from points that it has drawn (adjoint sampling), the target is the fixed point of the updates, but for
    the size of the steps. It is not zero there.

    Args:
        sampler: The sampler: its noising process is the reference's, as of `dds.families.dds`, `pis`, `underdamped`.
        key: The random key.
        log_density: The log density of the target.
        paths: The number of paths, at least 1.
        origin: Where the paths come from (`dds.origins`).
        score_clip: The bound on each coordinate of $\nabla \log \gamma / \pi_K$, as in `dds.kernels.bounded`. Where it
            acts, the optimum is another.

    Returns:
        The loss, over the paths where it is finite.

    Raises:
        ValueError: If `paths` is below 1, or the sampler has no steps or a noising process of its own.

    References:
        Havens, Miller, Yan, Domingo-Enrich, Sriram, Wood, Levine, Hu, Amos, Karrer, Fu, Liu and Chen (2025), Adjoint
        sampling, section 3; Domingo-Enrich, Drozdzal, Karrer and Chen (2025), Adjoint matching, for the lean adjoint;
        De Bortoli, Hutchinson, Wirnsberger and Doucet (2024), Target score matching, for the case of exact points.

    Example:
        >>> from dds import families, networks, schedules
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x)
        >>> network = networks.mlp(2, jnp.zeros_like)
        >>> family = families.dds(
        ...     network, schedules.constant(4, total=2.0), normal.standard(2)
        ... )
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> float(
        ...     adjoint_matching(
        ...         sampler, jax.random.key(1), log_density=log_density, paths=10
        ...     )
        ... )
        0.0
    """
    require(paths >= 1, "paths", paths, "at least 1")
    score = kernels.bounded(jax.grad(lambda y: end_potential(sampler, y, log_density)), score_clip)
    require(steps(sampler) >= 1, "the number of steps of the sampler", 0, "at least 1")

    def one(states: Float[Array, " states size"]) -> Scalar:
        adjoints = jax.lax.stop_gradient(pull_back(sampler, score(states[-1])))
        transitions = jax.vmap(sampler.kernel.apply)(states, sampler.kernel.rows)
        own = transitions.backward
        require(own is None, "the noising process of the sampler", "one of its own", "that of the reference")
        usable = jnp.isfinite(adjoints).all()  # before the difference, or its gradient would not be a number
        gaps = jnp.where(usable, transitions.forward.mean[:-1] - adjoints, 0)
        return jnp.where(usable, jnp.sum(gaps**2) / 2, jnp.inf)

    states = jax.lax.stop_gradient(origin(sampler, key, paths))
    return _mean_of_finite(devices.share(one)(states))


def _of_constant_paths(
    sampler: Sampler, key: KeyArray, paths: int, origin: Origin, function: Callable[[Path], Array]
) -> Float[Array, "paths ..."]:
    """A function of paths, of which the sampler is differentiated and not where they go."""
    states = jax.lax.stop_gradient(origin(sampler, key, paths))
    return devices.share(lambda states: function(retrace(states, sampler)))(states)
