"""Names for the shapes, data and callables that the rest of the library speaks in.

Time runs in *sampling order*: `y_0` is drawn from the prior, `y_K` is the sample of the target, and step `k` leads from
`y_k` to `y_{k+1}`. A *denoising* kernel `F_k(y_{k+1} | y_k)` moves forward in this order, a *noising* kernel
`B_k(y_k | y_{k+1})` moves back.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int, Key

if TYPE_CHECKING:  # NumPy's arrays are accepted, but nothing that is returned is one
    Arrays: TypeAlias = Array
else:
    Arrays = Array | np.ndarray

Scalar: TypeAlias = Float[Arrays, ""]
"""A floating-point array without axes."""

State: TypeAlias = Float[Arrays, " dim"]
"""One state of a path, or one point of any space."""

Point: TypeAlias = Float[Arrays, " point"]
"""A point of the target's space, where a state can be more, as with momenta; and what has one number for each of its
coordinates: an innovation, a control, the noise of a step."""

Noise: TypeAlias = Float[Arrays, " noise"]
"""Standard normal noise, as many numbers as what is made of it needs."""

LogWeights: TypeAlias = Float[Array | np.ndarray, " paths"]
"""Log weights of independent paths."""

KeyArray: TypeAlias = Key[Array, ""]
"""A new-style random key, as `jax.random.key` makes it."""

Params: TypeAlias = Any
"""Any PyTree of arrays: what an optimiser trains."""

Row: TypeAlias = Any
"""Any PyTree of arrays: what a kernel, a control or a reference needs to know of one step, besides the state."""

LogDensity: TypeAlias = Callable[[State], Scalar]
"""An unnormalised log density, `log gamma(x)`."""

Control: TypeAlias = Callable[[State, Row], Point]
"""A control `u(y, k)`: what is added to the reference drift at a state; `k` is an index or a row of a table."""


class Normal(NamedTuple):
    """A normal distribution of one point; as a map of noise, `x = mean + scale * noise`, also a choice of coordinates.

    Attributes:
        mean: The mean, shape `(dim,)`.
        scale: The standard deviation, shape `()` for all coordinates or `(dim,)` for each; or, shape `(dim, dim)`, the
            lower Cholesky factor of the covariance.
    """

    mean: Float[Array, " *steps dim"]
    scale: Float[Array, "..."]


class Mixture(NamedTuple):
    """A mixture of Student-t distributions of one point; of normal ones where the degrees of freedom are infinite.

    Attributes:
        log_shares: The logarithms of the shares of the components, which sum to one.
        means: Their centres.
        scales: Their lower Cholesky factors.
        freedom: The degrees of freedom of all of them: a whole number from 1 to 32, or infinity. Or, shape `(dim,)`,
            those along each axis of a component, the columns of its scale, where tails are independent: up to 8, or
            infinity.
    """

    log_shares: Float[Array, " components"]
    means: Float[Array, "components dim"]
    scales: Float[Array, "components dim dim"]
    freedom: Scalar


class Product(NamedTuple):
    """Independent coordinates, or coordinates that are independent once turned, each with a mixture of its own.

    Attributes:
        factors: The mixtures, of one dimension, each array with a leading axis for the coordinates.
        rotation: The orthogonal matrix that turns the coordinates of a point, or `None`.
    """

    factors: Mixture
    rotation: Float[Array, "dim dim"] | None = None


Prior: TypeAlias = Normal | Mixture | Product
"""A distribution that a path can start from."""


class Neck(NamedTuple):
    """What coordinates of a neck are made of (`dds.conditional`): modes and scales, given a few coordinates.

    Attributes:
        order: The coordinates: one for each of the few, then the others.
        shear: What the few are more than these: `shear` times the others, zero where they are coordinates themselves.
        first: The distribution by which the few are standardised.
        ends: The ends of the table along each of their axes, standardised.
        modes: The mode of the others at each node.
        columns: Their upper triangular factor there, `S` with `S S' = H^-1`, as columns with ones on the diagonal.
        log_lengths: The logarithms of what these are to be multiplied by.
    """

    order: Int[Array, " dim"]
    shear: Float[Array, "few others"]
    first: Normal
    ends: Float[Array, "2 few"]
    modes: Float[Array, "*nodes others"]
    columns: Float[Array, "*nodes others others"]
    log_lengths: Float[Array, "*nodes others"]


class Bijection(NamedTuple):
    """Coordinates that need not be affine: a map of points, one to one.

    Attributes:
        dim: The dimension of a point.
        forward: `y -> (x, log |det dx/dy|)`, from the coordinates to the user's.
        inverse: `x -> (y, log |det dx/dy|)`.
    """

    dim: int
    forward: Callable[[State], tuple[State, Scalar]]
    inverse: Callable[[State], tuple[State, Scalar]]


class Reference(NamedTuple):
    """A Gaussian process on `K` steps, with its exact reversal: what kernels are written against.

    A step is a bijection of pairs. It takes a state and standard normal noise to the next state and the noise with
    which the reversed process would step back, `(y_k, zeta_k) -> (y_{k+1}, eta_k)`; these *innovations* are standard
    normal under the reference, in either direction, and are computed without subtracting one state from another.

    Attributes:
        start: The marginal of `y_0`.
        end: The marginal of `y_K`.
        rows: What the functions need to know of each step: a PyTree with leading axis `K`.
        ahead: `(y_k, zeta_k, row_k) -> (y_{k+1}, eta_k)`.
        back: `(y_{k+1}, eta_k, row_k) -> (y_k, zeta_k)`, the inverse of `ahead`.
        innovations: `(y_k, y_{k+1}, row_k) -> (zeta_k, eta_k)`, by subtraction: for states from elsewhere.
    """

    start: Normal
    end: Normal
    rows: Row
    ahead: Callable[[State, Point, Row], tuple[State, Point]]
    back: Callable[[State, Point, Row], tuple[State, Point]]
    innovations: Callable[[State, State, Row], tuple[Point, Point]]


class Transitions(NamedTuple):
    """What a kernel says at one state `y_k`: the distributions of the innovations of the two steps that meet there.

    Attributes:
        forward: That of the step ahead, `F_k(y_{k+1} | y_k)`.
        backward: That of the step back, `B_{k-1}(y_{k-1} | y_k)`, or `None` for that of the reference process.
        scored: What the step ahead is weighed by, where that is not `forward` itself: `forward` with its parameters as
            constants, for the sticking-the-landing gradient.
    """

    forward: Normal
    backward: Normal | None = None
    scored: Normal | None = None


class Kernel(NamedTuple):
    """The kernels of all steps, one function of the state, so that a network is evaluated once a state.

    Attributes:
        rows: What the kernel needs to know of each state: a PyTree with leading axis `K + 1`.
        apply: `(y_k, row_k) -> Transitions`.
    """

    rows: Row
    apply: Callable[[State, Row], Transitions]


class Potentials(NamedTuple):
    r"""What is guessed of the target between the ends of a path: for trajectory balance, and for resampling on the way.

    The guess of the unnormalised density of `y_k` is `pi_k G_k`, with the marginal `pi_k` of the reference. At the ends
    it is known, `G_0 = Z p_0 / pi_0` but for `Z`, and `G_K = gamma / pi_K`.

    Attributes:
        log_z: What `log Z` is guessed to be.
        rows: What `apply` needs to know of each state but the first and the last: a PyTree with leading axis `K - 1`.
        apply: `(y_k, row_k) -> log G_k(y_k)`.
    """

    log_z: Scalar
    rows: Row
    apply: Callable[[State, Row], Scalar]


class Sampler(NamedTuple):
    """All that is needed to draw a path and to weigh it.

    Attributes:
        prior: The distribution `p_0` of `y_0`.
        reference: The process that the kernels are written against.
        kernel: The kernels `F_k` and `B_k`.
        coordinates: Where the path ends, `x = m + S y_K` or another bijection: from the coordinates of the path to
            those of the user. States may have further coordinates, as momenta: these come last, and are standard normal
            in the target.
        potentials: What is guessed of the target on the way (`dds.families.with_potentials`), or `None`. Neither paths
            nor their weights depend on it.
    """

    prior: Prior
    reference: Reference
    kernel: Kernel
    coordinates: Normal | Bijection
    potentials: Potentials | None = None


class Path(NamedTuple):
    """One path, and what its sampler says of it: all of its weight but the density of the target.

    Attributes:
        states: `y_0, ..., y_K`, in the coordinates of the sampler.
        x: The end of the path in the coordinates of the user.
        log_prior: `log p_0(y_0)`.
        log_reference: `log pi_0(y_0) / pi_K(x)`, of the reference's marginals: in one, since each is huge far out.
        log_forward: `log F_k / R_k` of each step, with the reference's step ahead `R_k`.
        log_backward: `log B_k / R*_k` of each step, with the reference's step back `R*_k`.
    """

    states: Float[Array, " steps+1 state"]
    x: Point
    log_prior: Scalar
    log_reference: Scalar
    log_forward: Float[Array, " steps"]
    log_backward: Float[Array, " steps"]


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
    tabulate: Callable[[Params, int], Row]
    apply: Callable[[Params, State, Row], Point]


class Family(NamedTuple):
    """A parametric family of samplers: what is trained.

    Attributes:
        init: `key -> params`.
        sampler: `params -> Sampler`.
    """

    init: Callable[[KeyArray], Params]
    sampler: Callable[[Params], Sampler]


Loss: TypeAlias = Callable[[Sampler, KeyArray], Scalar]
"""What training lowers: a function of a sampler and a key, `jax.grad` of which flows into the sampler's parameters."""

LossWithMemory: TypeAlias = Callable[[Sampler, KeyArray, Any], tuple[Scalar, Any]]
"""A loss that remembers: it is also given what it returned besides its value at the update before, any PyTree."""

Origin: TypeAlias = Callable[[Sampler, KeyArray, int], Float[Array, "paths states size"]]
"""Where paths come from: the states of as many paths as are asked for (`dds.origins`)."""


class Target(NamedTuple):
    """A density to sample from, with what is known of it.

    Attributes:
        dim: The dimension of a point.
        log_density: `log gamma(x)`, unnormalised.
        sample: `key -> x`, an exact sampler of `gamma / Z`, or `None`.
        log_z: The true `log Z`, or `None`.
        log_z_error: The standard error of `log_z`: 0 where it is exact.
        start: Where the target is looked for, a distribution wide enough to reach all modes; the standard normal if
            `None`.
        structure: `x -> PyTree`, from a point to the user's own parameters; the point itself if `None`.
    """

    dim: int
    log_density: LogDensity
    sample: Callable[[KeyArray], State] | None = None
    log_z: float | None = None
    log_z_error: float = 0.0
    start: Normal | None = None
    structure: Callable[[State], Any] | None = None
