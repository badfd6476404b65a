"""The targets that the command knows by name, and how it finds one of the user's own."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dds import targets
from dds.checks import require
from dds.types import Target


class Named(NamedTuple):
    """A named target: how to make it, in any dimension or its only one, where to look, and names of two coordinates."""

    make: Callable[..., Target]
    dim: int | None = None
    sigma: float = 1.0
    labels: tuple[str, str] = ("x_1", "x_2")


def _gaussian(dim: int) -> Target:
    distance = jnp.abs(jnp.subtract.outer(jnp.arange(dim), jnp.arange(dim)))
    return targets.gaussian(jnp.ones(dim), 0.7**distance)


def _mixture(dim: int) -> Target:
    angles = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
    ring = 3 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return targets.gaussian_mixture(jnp.pad(ring, ((0, 0), (0, dim - 2))), jnp.full(8, 0.5))


# The first two coordinates of those with a free dimension have the law of the same target in two: the pictures rely on
# it.
NAMED = {
    "funnel": Named(targets.funnel, 10, 1.075, ("v", "x_1")),
    "gaussian": Named(_gaussian, 10),
    "mixture": Named(_mixture, 2, 3.0),
    "ionosphere": Named(targets.ionosphere),
    "sonar": Named(targets.sonar),
    "german_credit": Named(targets.german_credit),
    "seeds": Named(targets.seeds),
    "brownian": Named(targets.brownian),
    "cox_process": Named(targets.cox_process),
    "many_well": Named(targets.many_well, 32, 2.0),
    "forty_modes": Named(targets.forty_modes, 2, 25.0),
}


def find_target(name: str, dim: int | None, scale: float) -> tuple[Target, Target | None, tuple[str, str]]:
    """The target of a name or of an import path; its law in the plane of its first coordinates; their labels."""
    if name in NAMED:
        named = NAMED[name]
        if named.dim is None:
            require(dim is None, "dim", dim, f"left out, for {name} has its own")
            return named.make(), None, named.labels
        require(dim is None or dim >= 2, "dim", dim, "at least 2")
        return named.make(dim or named.dim), named.make(2), named.labels
    module, colon, attribute = name.partition(":")
    known = f"one of {', '.join(NAMED)}, or an importable log density as my_module:log_density"
    require(bool(colon and module and attribute), "target", repr(name), known)
    require(dim is not None, "dim", dim, "given for a log density of your own")
    try:
        log_density = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"target must be {known}, got {name!r}: {error}.") from error
    target = targets.from_log_density(log_density, int(dim or 0), scale=scale)
    return target, target if dim == 2 else None, ("x_1", "x_2")
