r"""The learned process: denoising and noising kernels, schedule and coordinates, all trained together.

In coordinates $z$ with $x = m + e^{\ell} \odot z$ the reference is the stationary process of variance one, and one
network gives the distributions of both steps that meet at a state,

$$ F_k:\; z_{k+1} \sim \mathcal N\left(\sqrt{1 - b_k}\,z_k + b_k\,c^F_k(z_k),\; b_k e^{r^F_k(z_k)}\right), \qquad
   B_k:\; z_k \sim \mathcal N\left(\sqrt{1 - b_k}\,z_{k+1} + b_k\,c^B_k(z_{k+1}),\; b_k e^{r^B_k(z_{k+1})}\right), $$

$$ c_k(z) = u_k(z) + a_k(z) \odot z + g_k \odot \frac{s}{1 + \sqrt{b_k}\,\lVert s \rVert / \sqrt d}, \qquad
   s = z + \nabla \log \gamma(z), $$

with $u$, $a$ and $r$ the sum of a residual network of $\beta \tanh(z / \beta)$, which mixes coordinates, and of a few
features $\tanh(w_k z_i + v_k)$ of each coordinate alone: both end in zeros. So the sampler starts as
plain DDS with a gate on the score, and $B$ as the OU process, with none. The gate of $F$ starts as
$g_k = \prod_{j \ge k} (1 - b_j)^{3/2}$: if $\gamma$ is the reference times $e^f$, with a small Hermite polynomial $f$
of degree $n$, the exact control is $\prod_{j \ge k} (1 - b_j)^{n/2}\, \nabla f$, and what whitening leaves of a target
(`dds.coordinates`) begins with degree 3. There the sampler is good before it is trained.

The mean weight is `Z` for any of these choices. What they buy is variance: with fixed kernels the evidence
lower bound stays $O(1/K)$ from `log Z` even for the best control; a network that adds to the state, but cannot
multiply it, does not learn a funnel; one without features of a coordinate alone does not learn a well in each of many.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import references
from dds.checks import require, typed
from dds.kernels import both_ways
from dds.types import Kernel, KeyArray, Normal, Params, Row, State, Transitions

HEADS = 6
"""The outputs of the network, of one number a coordinate each: u, a and r of both kernels."""


@typed
def init(
    key: KeyArray, fractions: Float[Array, " steps"], dim: int, *, width: int = 64, depth: int = 2, features: int = 4
) -> dict[str, Params]:
    """Parameters of the learned process.

    Args:
        key: The random key.
        fractions: The noise fractions to start from, of any schedule in `dds.schedules`.
        dim: The dimension, at least 1.
        width: The units of every hidden layer; 0 for no network, where gates and what else is learned of each
            coordinate alone will do: it has the fewest parameters, and trains in the fewest updates.
        depth: The number of hidden layers, at least 1.
        features: The number of features of each coordinate alone, at least 0.

    Returns:
        The parameters, for `coordinates`, `fractions` and `kernel`.

    Raises:
        ValueError: If `dim` or `depth` is below 1, `width` or `features` below 0, or a fraction is outside (0, 1).

    Example:
        >>> from dds import schedules
        >>> params = init(jax.random.key(0), schedules.constant(8, total=3.0), 2)
        >>> fractions(params).shape
        (8,)
    """
    for name, size in (("dim", dim), ("depth", depth)):
        require(size >= 1, name, size, "at least 1")
    for name, size in (("width", width), ("features", features)):
        require(size >= 0, name, size, "at least 0")
    fractions = references.ou(fractions, dim).rows
    require(fractions.size >= 1, "fractions", "none", "one or more")
    states = fractions.size + 1
    initialise = jax.nn.initializers.lecun_normal() if width else jax.nn.initializers.zeros
    own_key, *keys = jax.random.split(key, depth + 2)
    slopes, offsets = 1.5 * jax.random.normal(own_key, (2, dim, features))
    inputs = [dim] + [width] * (depth - 1)
    left = jnp.append(jnp.cumsum(jnp.log1p(-fractions)[::-1])[::-1], 0.0)
    ramp = jnp.broadcast_to(jnp.exp(1.5 * left)[:, None], (states, dim))
    return {
        "coordinates": {"mean": jnp.zeros(dim), "log_scale": jnp.zeros(dim)},
        "logits": jnp.log(fractions) - jnp.log1p(-fractions),
        "layers": [initialise(keys[i], (inputs[i], width)) for i in range(depth)],
        "heads": jnp.zeros((width, HEADS * dim)),
        "rows": {
            "biases": [0.5 * jax.random.normal(keys[-1], (states, width))]
            + [jnp.zeros((states, width)) for _ in range(depth - 1)],
            "heads": jnp.zeros((states, HEADS * dim)),
            "own": {
                "slopes": jnp.broadcast_to(slopes, (states, dim, features)),
                "offsets": jnp.broadcast_to(offsets, (states, dim, features)),
                "heads": jnp.zeros((states, HEADS, dim, features)),
            },
            "gates": jnp.stack([ramp, jnp.zeros_like(ramp)], axis=1),
        },
    }


@typed
def coordinates(params: Params) -> Normal:
    r"""The learned coordinates $\mathcal N(m, e^{2\ell})$ that the process runs in: the learned prior.

    Args:
        params: The parameters, of `init`.

    Returns:
        The coordinates, $x = m + e^{\ell} z$.

    Example:
        >>> from dds import schedules
        >>> coordinates(
        ...     init(jax.random.key(0), schedules.constant(8, total=3.0), 2)
        ... ).scale.tolist()
        [1.0, 1.0]
    """
    return Normal(params["coordinates"]["mean"], jnp.exp(params["coordinates"]["log_scale"]))


@typed
def fractions(params: Params) -> Float[Array, " steps"]:
    """The learned schedule, for `dds.references.ou`.

    Args:
        params: The parameters, of `init`.

    Returns:
        The noise fractions of the steps.

    Example:
        >>> from dds import schedules
        >>> fractions(
        ...     init(jax.random.key(0), schedules.constant(2, total=1.0), 2)
        ... ).tolist()
        [0.5, 0.5]
    """
    return jax.nn.sigmoid(params["logits"])


@typed
def kernel(params: Params, score: Callable[[State], State], *, bound: float = 10.0, reach: float = 20.0) -> Kernel:
    r"""The learned kernels of both directions.

    Args:
        params: The parameters, of `init`.
        score: The score of the target in the coordinates of the process. Gradients flow through it: cut off, the
            gradient of the loss is biased.
        bound: The bound on $a$ and $r$, $r \to \beta \tanh(r / \beta)$, positive: without it a state far out is squared
            at every step, and one wild path makes an infinite weight.
        reach: How far out the network tells states apart, in standard deviations of the prior, positive. Beyond, where
            no path has trained it, it says what it says there.

    Returns:
        The kernels.

    Raises:
        ValueError: If `bound` or `reach` is not positive.

    Example:
        >>> from dds import schedules
        >>> params = init(jax.random.key(0), schedules.constant(8, total=3.0), 2)
        >>> start = kernel(params, lambda z: -z)
        >>> start.apply(
        ...     jnp.ones(2), jax.tree.map(lambda row: row[0], start.rows)
        ... ).forward.mean.tolist()
        [0.0, 0.0]
    """
    require(bound > 0, "bound", bound, "positive")
    require(reach > 0, "reach", reach, "positive")

    def apply(z: State, row: Row) -> Transitions:
        rows, (ahead, back) = row
        x = reach * jnp.tanh(z / reach)
        for i, (layer, bias) in enumerate(zip(params["layers"], rows["biases"], strict=True)):
            y = jax.nn.gelu(x @ layer + bias)
            x = x + y if i else y
        own = jnp.tanh(rows["own"]["slopes"] * z[:, None] + rows["own"]["offsets"])
        mixed = (x @ params["heads"] + rows["heads"]).reshape(HEADS, -1)
        heads = mixed + jnp.einsum("hdf,df->hd", rows["own"]["heads"], own)
        slope = z + score(z)
        size = jnp.sqrt(jnp.mean(slope**2) + jnp.finfo(z.dtype).tiny)

        def innovation(fraction, gate, shift, stretch, log_variance) -> Normal:
            stretch, log_variance = (bound * jnp.tanh(head / bound) for head in (stretch, log_variance))
            tamed = slope / (1 + jnp.sqrt(fraction) * size)
            control = shift + stretch * z + gate * tamed
            return Normal(jnp.sqrt(fraction) * control, jnp.exp(0.5 * log_variance))

        forward = innovation(ahead, rows["gates"][0], *heads[:3])
        return Transitions(forward, innovation(back, rows["gates"][1], *heads[3:]))

    return Kernel((params["rows"], both_ways(fractions(params))), apply)
