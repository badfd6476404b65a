r"""Models of small images of handwritten digits: the density of a flow, and the posterior of an autoencoder's code."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jax.scipy.stats import logistic
from jaxtyping import Array, Float

from dds import normal
from dds.checks import require_shape, typed
from dds.targets._data import arrays
from dds.types import KeyArray, Normal, Scalar, State, Target

_Parameters = Mapping[str, np.ndarray | Array]

PIXELS = 64
"""Of an image, 8 by 8."""

GREYS = 16
"""The largest value of a pixel: how many of 4 by 4 pixels of the image as it was scanned are dark."""


@typed
def nice_digits() -> Target:
    r"""The density of a NICE flow that was trained on images of handwritten digits.

    Every other pixel of an image goes to $a$, the rest to $b$; by turns one is shifted by a network of the other,

    $$ \begin{aligned}
    b &\leftarrow b + m_1(a), \\
    a &\leftarrow a + m_2(b), \\
    b &\leftarrow b + m_3(a), \\
    a &\leftarrow a + m_4(b),
    \end{aligned} $$

    and with $h$ for $a$ and $b$ at the end, $e^{s_i} h_i$ is standard logistic. No shift changes a volume, so

    $$ \gamma(x) = \prod_{i=1}^{64} e^{s_i}\, \mathrm{Logistic}\bigl(e^{s_i} h_i(x)\bigr). $$

    Returns:
        The target, of dimension 64: normalised, so `log_z` is 0, with an exact sampler. A point is an image row by
        row, its pixels from 0 to 1.

    References:
        Dinh, Krueger and Bengio (2015), NICE: non-linear independent components estimation; Vargas, Grathwohl and
        Doucet (2023), for its density as a target, there of larger images.

    Example:
        >>> target = nice_digits()
        >>> target.dim, target.log_z
        (64, 0.0)
    """
    flow = arrays("nice_digits")
    start = Normal(jnp.full(PIXELS, 0.5), jnp.array(0.5))
    return Target(PIXELS, lambda x: _nice_log_density(flow, x), lambda key: _nice_sample(flow, key), 0.0, start=start)


@typed
def vae_digits() -> Target:
    r"""The posterior of the code of one image, by the decoder of a variational autoencoder of handwritten digits.

    Code $z \sim \mathcal N(0, I)$ has 16 coordinates, and the image, with a network $f$,

    $$ n_i \sim \mathrm{Binomial}\bigl(16,\ \mathrm{logit}^{-1} f_i(z)\bigr), \qquad i = 1, \dots, 64. $$

    Returns:
        The target, of dimension 16. Its `log_z` is the log probability of the image by the model, by importance
        sampling in NumPy.

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes; Vargas, Grathwohl and Doucet (2023), for such a
        posterior as a target, there of larger images.

    Example:
        >>> vae_digits().dim
        16
    """
    decoder = arrays("vae_digits")
    image = decoder.pop("image")
    dim = len(decoder["weights_0"])
    return Target(
        dim,
        lambda z: _vae_log_density(decoder, z, jnp.asarray(image, z.dtype)),
        log_z=-107.9761,
        log_z_error=0.0008,
    )


def _nice_log_density(flow: _Parameters, x: Float[Array, " 64"]) -> Scalar:
    """The log density of a NICE flow: its parameters are `log_scale`, and those of networks, a row for each shift."""
    require_shape(x, PIXELS)
    a, b = x[::2], x[1::2]
    for shift in range(0, len(flow["weights_0"]), 2):
        b = b + _network(flow, a, shift)
        a = a + _network(flow, b, shift + 1)
    log_scale = jnp.asarray(flow["log_scale"], x.dtype)
    return jnp.sum(logistic.logpdf(jnp.exp(log_scale) * jnp.concatenate([a, b])) + log_scale)


def _nice_sample(flow: _Parameters, key: KeyArray) -> State:
    noise = jax.random.logistic(key, (PIXELS,))
    a, b = jnp.split(noise * jnp.exp(-jnp.asarray(flow["log_scale"], noise.dtype)), 2)
    for shift in reversed(range(0, len(flow["weights_0"]), 2)):
        a = a - _network(flow, b, shift + 1)
        b = b - _network(flow, a, shift)
    return jnp.ravel(jnp.stack([a, b], axis=1))


def _vae_log_density(decoder: _Parameters, code: State, image: Float[Array, " 64"]) -> Scalar:
    """The joint log density of a code and an image."""
    require_shape(code, len(decoder["weights_0"]))
    logits = _network(decoder, code)
    log_counts = gammaln(GREYS + 1.0) - gammaln(image + 1) - gammaln(GREYS - image + 1)
    log_likelihood = image * jax.nn.log_sigmoid(logits) + (GREYS - image) * jax.nn.log_sigmoid(-logits)
    prior = Normal(jnp.zeros_like(code), jnp.ones((), code.dtype))
    return normal.log_density(prior, code) + jnp.sum(log_likelihood + log_counts)


def _network(parameters: _Parameters, x: State, row: int | tuple[()] = ()) -> State:
    """A perceptron of two hidden layers; of several that are stacked, the one in this row."""
    for layer in range(3):
        weights, bias = (jnp.asarray(parameters[f"{name}_{layer}"][row], x.dtype) for name in ("weights", "bias"))
        x = (jax.nn.silu(x) if layer else x) @ weights + bias
    return x
