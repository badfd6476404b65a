r"""Families of samplers: what can be trained, each a choice of prior, reference, kernel and coordinates.

| family | reference | kernels | paper |
|---|---|---|---|
| `dds` | OU | denoising, by a control | Vargas, Grathwohl and Doucet (2023) |
| `pis` | Brownian motion from the origin | the same, by a control | Zhang and Chen (2022) |
| `underdamped` | kinetic OU | denoising of the momentum, by a control | Blessing, Berner, Richter and Neumann (2025) |
| `cmcd` | OU | annealed Langevin steps both ways, and a control | Vargas, Padhy, Blessing and Nüsken (2024) |
| `learned` | OU, with a learned schedule and learned coordinates | learned, both ways | |
| `importance` | none: no steps | none | |

`with_mixture` gives any of them a learned mixture for its prior, `with_potentials` what trajectory balance asks for.

One of your own is two functions, `init: key -> params` and `sampler: params -> Sampler`. The `coordinates` of each are
where the target is like $\mathcal N(0, I)$ (`dds.coordinates`); the paper's $\sigma$ is their scale.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import kernels, normal, paths, references
from dds import learned as learning
from dds.checks import require, typed
from dds.types import (
    Bijection,
    Family,
    KeyArray,
    LogDensity,
    Mixture,
    Network,
    Normal,
    Params,
    Potentials,
    Prior,
    Reference,
    Row,
    Sampler,
    Scalar,
    State,
)


@typed
def dds(network: Network, fractions: Float[Array, " steps"], coordinates: Normal) -> Family:
    r"""DDS as published: a control is learned, $F_k = \mathcal N(\sqrt{1 - b_k}\,y + b_k u_\theta(y, k), b_k I)$.

    Args:
        network: The control, in the sampler's coordinates: `dds.networks.mlp` of the score there, or your own.
        fractions: The schedule.
        coordinates: The coordinates; $\mathcal N(0, \sigma^2 I)$ for the paper's $\sigma$.

    Returns:
        The family.

    References:
        Vargas, Grathwohl and Doucet (2023), sections 3 and 4.

    Example:
        >>> from dds import schedules
        >>> from dds import networks
        >>> family = dds(
        ...     networks.mlp(2, lambda y: -y),
        ...     schedules.cosine(8, total=2.0),
        ...     normal.standard(2),
        ... )
        >>> family.sampler(family.init(jax.random.key(0))).prior.mean.shape
        (2,)
    """
    return _controlled(network, fractions, references.ou(fractions, coordinates.mean.size), coordinates)


@typed
def pis(network: Network, steps: int, coordinates: Normal) -> Family:
    r"""The path integral sampler: a control of Brownian motion from the origin, on equal steps of the time from 0 to 1.

    Args:
        network: The control, of the position in the sampler's coordinates.
        steps: The number of steps `K` after the first, which is the prior; at least 0.
        coordinates: The coordinates; their scale is the standard deviation of the uncontrolled end.

    Returns:
        The family.

    Raises:
        ValueError: If `steps` is negative.

    References:
        Zhang and Chen (2022), Path Integral Sampler, section 3.

    Example:
        >>> from dds import networks
        >>> family = pis(networks.mlp(2, lambda y: -y), 3, normal.standard(2))
        >>> float(family.sampler(family.init(jax.random.key(0))).prior.scale)
        0.5
    """
    require(steps >= 0, "steps", steps, "at least 0")
    times = jnp.arange(1, steps + 2) / (steps + 1)
    reference = references.brownian(times, coordinates.mean.size)

    def sampler(params: Params) -> Sampler:
        kernel = kernels.path_integral(times, partial(network.apply, params), network.tabulate(params, steps))
        return _from(reference, kernel, coordinates)

    return Family(network.init, sampler)


@typed
def underdamped(
    network: Network, fractions: Float[Array, " steps"], angles: Float[Array, " steps"], coordinates: Normal
) -> Family:
    r"""Underdamped DDS: a control of the momentum, which pushes the position.

    Args:
        network: The control of the momentum, a function of position and momentum: `dds.networks.mlp` with `inputs`
            twice the dimension, whose score is that of the position.
        fractions: The fraction of the momentum's variance that each step renews.
        angles: The angle of each step, its length in time.
        coordinates: The coordinates of the position.

    Returns:
        The family.

    References:
        Blessing, Berner, Richter and Neumann (2025), Underdamped Diffusion Bridges, section 3.

    Example:
        >>> from dds import networks
        >>> network = networks.mlp(2, lambda y: -y[:2], inputs=4)
        >>> family = underdamped(
        ...     network, jnp.full(8, 0.3), jnp.full(8, 0.4), normal.standard(2)
        ... )
        >>> family.sampler(family.init(jax.random.key(0))).prior.mean.shape
        (4,)
    """
    return _controlled(network, fractions, references.kinetic(fractions, angles, coordinates.mean.size), coordinates)


@typed
def cmcd(
    network: Network,
    fractions: Float[Array, " steps"],
    log_density: LogDensity,
    coordinates: Normal,
    *,
    score_clip: float | None = 100.0,
) -> Family:
    r"""Controlled Monte Carlo diffusions: annealed Langevin steps both ways, a learned control and temperatures.

    Args:
        network: The control, in the sampler's coordinates; it needs no score of its own.
        fractions: The schedule; a Langevin step has the size $b_k / 2$.
        log_density: The log density of the target.
        coordinates: The coordinates; annealing starts from their normal distribution.
        score_clip: The bound on each coordinate of the score, in these coordinates, as in `dds.kernels.bounded`.

    Returns:
        The family. Temperatures start at $\beta_k = k / K$.

    Raises:
        ValueError: If `score_clip` is not positive.

    References:
        Vargas, Padhy, Blessing and Nüsken (2024), Controlled Monte Carlo Diffusions, section 3.

    Example:
        >>> from dds import networks
        >>> family = cmcd(
        ...     networks.mlp(2, jnp.zeros_like),
        ...     jnp.full(4, 0.2),
        ...     lambda x: -x @ x,
        ...     normal.standard(2),
        ... )
        >>> temperatures = family.sampler(family.init(jax.random.key(0))).kernel.rows[1]
        >>> [round(float(beta), 4) for beta in temperatures]
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    reference = references.ou(fractions, coordinates.mean.size)
    score = kernels.bounded(jax.grad(normal.pull_back(coordinates, log_density)), score_clip)

    def init(key: KeyArray) -> Params:
        return {"control": network.init(key), "temperatures": jnp.zeros(fractions.size)}

    def sampler(params: Params) -> Sampler:
        rises = jnp.cumsum(jax.nn.softmax(params["temperatures"]))
        betas = jnp.concatenate([jnp.zeros(1, rises.dtype), rises])
        control, rows = params["control"], network.tabulate(params["control"], fractions.size + 1)
        kernel = kernels.annealed(fractions, betas, score, partial(network.apply, control), rows)
        return _from(reference, kernel, coordinates)

    return Family(init, sampler)


@typed
def learned(
    log_density: LogDensity,
    fractions: Float[Array, " steps"],
    coordinates: Normal | Bijection | int,
    *,
    width: int = 64,
    depth: int = 2,
    features: int = 4,
    bound: float = 10.0,
    reach: float = 20.0,
) -> Family:
    r"""Kernels of both directions, schedule and coordinates, all learned: see `dds.learned`.

    Args:
        log_density: The log density of the target, whose score the kernels use.
        fractions: The schedule to start from.
        coordinates: The coordinates to start from, or the dimension for those of the user.
        width: As in `dds.learned.init`.
        depth: As in `dds.learned.init`.
        features: As in `dds.learned.init`.
        bound: As in `dds.learned.kernel`.
        reach: As in `dds.learned.kernel`.

    Returns:
        The family.

    Raises:
        ValueError: As in `dds.learned.init` and `dds.learned.kernel`.

    Example:
        >>> from dds import losses, paths, schedules
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x)
        >>> family = learned(log_density, schedules.constant(8, total=3.0), 2)
        >>> path = paths.sample_path(
        ...     jax.random.key(1), family.sampler(family.init(jax.random.key(0)))
        ... )
        >>> round(float(losses.log_weight(path, log_density)), 5) + 0.0
        0.0
    """
    outer = normal.standard(coordinates) if isinstance(coordinates, int) else coordinates
    dim = normal.bijection(outer).dim

    def init(key: KeyArray) -> Params:
        return learning.init(key, fractions, dim, width=width, depth=depth, features=features)

    def sampler(params: Params) -> Sampler:
        own = normal.compose(outer, learning.coordinates(params))
        score = jax.grad(normal.pull_back(own, log_density))
        kernel = learning.kernel(params, score, bound=bound, reach=reach)
        return _from(references.ou(learning.fractions(params), dim), kernel, own)

    jax.eval_shape(init, jax.random.key(0))  # sizes are checked here, not at the first update
    return Family(init, sampler)


@typed
def importance(coordinates: Normal | Bijection, prior: Prior | None = None) -> Family:
    r"""No steps: draws from a distribution, weighted by $\gamma(x) / q(x)$. There is nothing to train.

    Args:
        coordinates: The coordinates: those of a normal fit, or of a neck (`dds.conditional`).
        prior: The distribution in these coordinates, such as a mixture that `dds.search` has adapted; by default the
            standard normal, so that $q$ is the normal fit itself.

    Returns:
        The family, without parameters.

    Example:
        >>> from dds import losses, paths
        >>> family = importance(normal.standard(2))
        >>> path = paths.sample_path(
        ...     jax.random.key(0), family.sampler(family.init(jax.random.key(0)))
        ... )
        >>> float(
        ...     losses.log_weight(
        ...         path, lambda x: normal.log_density(normal.standard(2), x)
        ...     )
        ... )
        0.0
    """
    dtype = coordinates.mean.dtype if isinstance(coordinates, Normal) else jnp.zeros(0).dtype
    none, dim = jnp.zeros(0, dtype), normal.bijection(coordinates).dim
    kernel = kernels.denoising(none, lambda y, k: jnp.zeros_like(y))
    sampler = _from(references.ou(none, dim), kernel, coordinates)
    if prior is not None:
        sampler = sampler._replace(prior=prior)
    return Family(lambda key: (), lambda params: sampler)


@typed
def with_mixture(family: Family, mixture: Mixture) -> Family:
    r"""A family with a mixture for its prior, which is learned with all the rest.

    $$ p_0 = \sum_j \pi_j\, \mathcal T_\nu\bigl(m_j, S_j e^{2 \ell_j} S_j^\top\bigr), $$

    with $m_j$ learned from the centres of the mixture on and $\ell_j$, one number for each coordinate, from zero. The
    shares stay as they are, for a draw is no differentiable function of them.

    Args:
        family: The family.
        mixture: The mixture to start from, in the coordinates of the family.

    Returns:
        The family, whose parameters are a dictionary: under "sampler" those of the family that was given.

    Raises:
        ValueError: If the mixture is not of the dimension of the family's states.

    References:
        Blessing, Jia and Neumann (2025), End-to-end learning of Gaussian mixture priors for diffusion samplers.

    Example:
        >>> from dds import mixtures, schedules
        >>> plain = learned(
        ...     lambda x: -x @ x, schedules.constant(4, total=2.0), 2, width=0
        ... )
        >>> family = with_mixture(plain, mixtures.of_normal(normal.standard(2)))
        >>> family.sampler(family.init(jax.random.key(0))).prior.means.shape
        (1, 2)
    """

    def init(key: KeyArray) -> Params:
        log_stretches = jnp.zeros_like(mixture.means)
        return {"sampler": family.init(key), "means": mixture.means, "log_stretches": log_stretches}

    def sampler(params: Params) -> Sampler:
        scales = mixture.scales * jnp.exp(params["log_stretches"])[:, None, :]
        return family.sampler(params["sampler"])._replace(prior=mixture._replace(means=params["means"], scales=scales))

    size = jax.eval_shape(lambda key: family.sampler(family.init(key)).reference.start.mean, jax.random.key(0)).size
    came = mixture.means.shape[1]
    require(came == size, "the dimension of mixture", came, f"{size}, that of the states of the family")
    return Family(init, sampler)


@typed
def with_potentials(family: Family, log_density: LogDensity) -> Family:
    r"""A family that also learns $\log Z$ and what the target is on the way: for trajectory balance and resampling.

    The potentials of the inner states (`dds.types.Potentials`) follow the annealed target,

    $$ \log G_k(y) = c_k + \beta_k \log \frac{\gamma(x(y))}{\pi_K(x(y))}, $$

    with learned offsets $c_k$, from zero, and temperatures that rise from 0 to 1, from $k / K$. The guess of $\log Z$
    is learned from zero on: where that is far off, give it a higher rate than the rest.

    Args:
        family: The family.
        log_density: The log density of the target.

    Returns:
        The family, whose parameters are a dictionary: under "sampler" those of the family that was given.

    References:
        Malkin, Jain, Bengio, Sun and Bengio (2022), for the learned $\log Z$; Zhang, Chen, Liu, Courville and Bengio
        (2024), Diffusion Generative Flow Samplers, section 3, for potentials on the way.

    Example:
        >>> from dds import schedules
        >>> def log_density(x):
        ...     return -jnp.sum(x**4)
        >>> plain = learned(log_density, schedules.constant(4, total=2.0), 2, width=0)
        >>> family = with_potentials(plain, log_density)
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> [row.tolist() for row in sampler.potentials.rows]
        [[0.25, 0.5, 0.75], [0.0, 0.0, 0.0]]
    """

    def init(key: KeyArray) -> Params:
        params = family.init(key)
        inner = max(paths.steps(family.sampler(params)) - 1, 0)
        return {
            "sampler": params,
            "log_z": jnp.zeros(()),
            "temperatures": jnp.zeros(inner + 1),
            "offsets": jnp.zeros(inner),
        }

    def sampler(params: Params) -> Sampler:
        plain = family.sampler(params["sampler"])
        betas = jnp.cumsum(jax.nn.softmax(params["temperatures"]))[:-1]

        def apply(y: State, row: Row) -> Scalar:
            beta, offset = row
            return offset + beta * paths.end_potential(plain, y, log_density)

        return plain._replace(potentials=Potentials(params["log_z"], (betas, params["offsets"]), apply))

    return Family(init, sampler)


def _controlled(
    network: Network, fractions: Float[Array, " steps"], reference: Reference, coordinates: Normal
) -> Family:
    """A denoising kernel whose control is a network."""

    def sampler(params: Params) -> Sampler:
        rows = network.tabulate(params, fractions.size)
        return _from(reference, kernels.denoising(fractions, partial(network.apply, params), rows), coordinates)

    return Family(network.init, sampler)


def _from(reference: Reference, kernel, coordinates: Normal | Bijection) -> Sampler:
    """A sampler whose prior is the reference's."""
    return Sampler(reference.start, reference, kernel, coordinates)
