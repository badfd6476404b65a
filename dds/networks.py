r"""Control networks: each a `Network` of three pure functions.

`init` draws the parameters; `tabulate` computes, once for all steps and all paths, whatever depends on the step and
not on the state; `apply` does the rest at one state. A network of your own, from any library or none, is the same
three functions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import kernels
from dds.checks import require, typed
from dds.types import KeyArray, Network, Params, Point, Row, State


@typed
def mlp(
    dim: int,
    score: Callable[[State], Point],
    *,
    inputs: int | None = None,
    width: int = 64,
    depth: int = 2,
    activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = jax.nn.gelu,
    score_clip: float | None = 100.0,
    stop_score: bool = False,
) -> Network:
    r"""The paper's network, $u(y, k) = \mathrm{MLP}(y, e_k) + g_k \odot \mathrm{clip}(\nabla\log\gamma(y))$.

    The time embedding $e_k$ and the gate $g_k$ are perceptrons of Fourier features of $k / K$. The last layers of the
    MLP and of the gate start at zero, so that training starts from the reference process.

    Args:
        dim: The dimension of the control, at least 1.
        score: The score of the target, from a state: `jax.grad(log_density)` where a state is a point.
        inputs: The dimension of a state; by default that of the control.
        width: The units of every hidden layer, at least 1.
        depth: The hidden layers of the MLP, at least 1.
        activation: The activation.
        score_clip: The bound on each coordinate of the score, as in `dds.kernels.bounded`.
        stop_score: Whether no gradient flows through the score, as in the authors' program. It makes the gradient of
            the loss biased, so by default it flows.

    Returns:
        The network.

    Raises:
        ValueError: If `dim`, `inputs`, `width` or `depth` is below 1, or `score_clip` is not positive.

    References:
        Vargas, Grathwohl and Doucet (2023), section 4, after Zhang and Chen (2022).

    Example:
        >>> network = mlp(2, lambda y: -y)
        >>> params = network.init(jax.random.key(0))
        >>> rows = network.tabulate(params, 8)
        >>> network.apply(
        ...     params, jnp.ones(2), jax.tree.map(lambda row: row[0], rows)
        ... ).tolist()
        [0.0, 0.0]
    """
    inputs = dim if inputs is None else inputs
    for name, size in (("dim", dim), ("inputs", inputs), ("width", width), ("depth", depth)):
        require(size >= 1, name, size, "at least 1")
    bounded = kernels.bounded(score, score_clip)

    def init(key: KeyArray) -> Params:
        keys = iter(jax.random.split(key, 6 + depth))
        embedding = [_dense(next(keys), 2 * width, width), _dense(next(keys), width, width)]
        hidden = [_dense(next(keys), width, width) for _ in range(depth - 1)]
        gate = [_dense(next(keys), 2 * width, width), _dense(next(keys), width, width)]
        return {
            "phase": jnp.zeros(width),
            "embedding": embedding,
            "gate": [*gate, _zeros(width, dim)],
            "from_state": _dense(next(keys), inputs, width)["weight"],
            "from_time": _dense(next(keys), width, width),
            "hidden": hidden,
            "out": _zeros(width, dim),
        }

    def tabulate(params: Params, steps: int) -> Row:
        angles = jnp.outer(jnp.arange(steps) / steps, jnp.linspace(0.1, 100.0, width)) + params["phase"][None]
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return {
            "time": jax.vmap(lambda x: _affine(params["from_time"], _perceptron(params["embedding"], x)))(features),
            "gate": jax.vmap(lambda x: _perceptron(params["gate"], x))(features),
        }

    def _perceptron(layers: list[Params], x: Float[Array, " features"]) -> Float[Array, " outputs"]:
        *hidden, last = layers
        for layer in hidden:
            x = activation(_affine(layer, x))
        return _affine(last, x)

    def apply(params: Params, y: State, row: Row) -> Point:
        slope = jax.lax.stop_gradient(bounded(y)) if stop_score else bounded(y)
        x = activation(y @ params["from_state"] + row["time"])
        return _perceptron([*params["hidden"], params["out"]], x) + row["gate"] * slope

    return Network(init, tabulate, apply)


def _dense(key: KeyArray, inputs: int, outputs: int) -> Params:
    return {"weight": jax.nn.initializers.lecun_normal()(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def _zeros(inputs: int, outputs: int) -> Params:
    return {"weight": jnp.zeros((inputs, outputs)), "bias": jnp.zeros(outputs)}


def _affine(layer: Params, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
    return x @ layer["weight"] + layer["bias"]
