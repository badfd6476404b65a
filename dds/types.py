"""Names for the shapes, data and callables that the rest of the library speaks in.

Time runs in *sampling order*: `y_0` is drawn from the prior, `y_K` is the sample of the target, and step `k` leads from
`y_k` to `y_{k+1}`. A *denoising* kernel `F_k(y_{k+1} | y_k)` moves forward in this order, a *noising* kernel
`B_k(y_k | y_{k+1})` moves back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Key

Scalar: TypeAlias = Float[Array, ""]
"""A floating-point scalar array."""

State: TypeAlias = Float[Array, " dim"]
"""One point of the space that is sampled."""

KeyArray: TypeAlias = Key[Array, ""]
"""A new-style random key, as `jax.random.key` makes it."""

Params: TypeAlias = Any
"""Any PyTree of arrays: what an optimiser trains."""

Row: TypeAlias = Any
"""Any PyTree of arrays: what a control or a kernel needs to know of one step, besides the state."""

LogDensity: TypeAlias = Callable[[State], Scalar]
"""An unnormalised log density, `log gamma(x)`."""

Control: TypeAlias = Callable[[State, Row], State]
"""A control `u(y, k)`: what is added to the reference drift at a state; `k` is an index or a row of a table."""


class Normal(NamedTuple):
    """A normal law of one point.

    Attributes:
        mean: The mean, shape `(dim,)`.
        scale: The standard deviation, shape `()` for all coordinates or `(dim,)` for each; or, shape `(dim, dim)`, the
            lower Cholesky factor of the covariance.
    """

    mean: Float[Array, " *steps dim"]
    scale: Float[Array, "..."]


class OU(NamedTuple):
    """The stationary Ornstein-Uhlenbeck process on `K` steps: the reference process, and the noising kernel of DDS.

    Attributes:
        fractions: The fraction `b_k` of the variance that step `k` renews, in `(0, 1)`, in sampling order.
        sigma: The standard deviation of the stationary law `N(0, sigma^2 I)`.
    """

    fractions: Float[Array, " steps"]
    sigma: Scalar


class Laws(NamedTuple):
    """What a kernel says at one state `y_k`: the laws of the innovations of the two steps that meet there.

    An innovation is how a step departs from the reference process, under which it is standard normal:
    `(y_{k+1} - sqrt(1 - b_k) y_k) / (sigma sqrt(b_k))` for the step ahead, and
    `(y_{k-1} - sqrt(1 - b_{k-1}) y_k) / (sigma sqrt(b_{k-1}))` for the step back.

    Attributes:
        denoising: The law of the step ahead, `F_k(y_{k+1} | y_k)`.
        noising: The law of the step back, `B_{k-1}(y_{k-1} | y_k)`, or `None` for that of the reference process.
    """

    denoising: Normal
    noising: Normal | None = None


class Kernel(NamedTuple):
    """The kernels of all steps, one function of the state, so that a network is evaluated once a state.

    Attributes:
        rows: What the kernel needs to know of each state: a PyTree with leading axis `K + 1`.
        apply: `(y_k, row_k) -> Laws`.
    """

    rows: Any
    apply: Callable[[State, Row], Laws]


class Sampler(NamedTuple):
    """The choices that make a sampler: `p_0`, `B` and `F`.

    Attributes:
        prior: The law `p_0` of `y_0`.
        reference: The stationary process that the kernels are written against.
        kernel: The kernels `F_k` and `B_k`.
    """

    prior: Normal
    reference: OU
    kernel: Kernel


class Trajectory(NamedTuple):
    """The states of a path, and its innovations free of cancellation.

    Attributes:
        states: `y_0, ..., y_K`.
        innovations: `(y_{k+1} - sqrt(1 - b_k) y_k) / (sigma sqrt(b_k))`, computed without subtracting one state from
            another.
    """

    states: Float[Array, " steps+1 dim"]
    innovations: Float[Array, "steps dim"]


class Path(NamedTuple):
    """A trajectory and the laws that the sampler has along it: all that `log p_0`, `log F` and `log B` need.

    Attributes:
        trajectory: The states and innovations.
        prior: The law of `y_0`.
        denoising: The laws of the innovations of the steps ahead, with leading axis `K`.
        noising: The laws of those of the steps back, with leading axis `K`, or `None` for the reference process.
    """

    trajectory: Trajectory
    prior: Normal
    denoising: Normal
    noising: Normal | None


class Network(NamedTuple):
    """A control network as three pure functions.

    What depends on the step and the parameters but not on the state is computed by `tabulate`, once for all steps and
    all paths; `apply` is what remains to be done at each state.

    Attributes:
        init: `key -> params`.
        tabulate: `(params, steps) -> rows`, a PyTree with leading axis `steps`.
        apply: `(params, y, row) -> u`.
    """

    init: Callable[[KeyArray], Params]
    tabulate: Callable[[Params, int], Any]
    apply: Callable[[Params, State, Row], State]


class Target(NamedTuple):
    """A density to sample from, with what is known of it.

    Attributes:
        dim: The dimension of a point.
        log_density: `log gamma(x)`, unnormalised.
        sample: `key -> x`, an exact sampler of `gamma / Z`, or `None`.
        log_z: The true `log Z`, or `None`.
    """

    dim: int
    log_density: LogDensity
    sample: Callable[[KeyArray], State] | None = None
    log_z: float | None = None
