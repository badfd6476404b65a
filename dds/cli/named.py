"""The targets that the command knows by name, and how it finds one of the user's own."""

import difflib
import importlib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dds import targets
from dds.checks import require
from dds.types import Normal, Target


class Named(NamedTuple):
    """A named target: how to make it, in any dimension or its only one, and names of two coordinates."""

    make: Callable[..., Target]
    dim: int | None = None
    labels: tuple[str, str] = ("x_1", "x_2")


def _gaussian(dim: int) -> Target:
    distance = jnp.abs(jnp.subtract.outer(jnp.arange(dim), jnp.arange(dim)))
    return targets.gaussian(jnp.ones(dim), 0.7**distance)


def _mixture(dim: int) -> Target:
    angles = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
    ring = 3 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    mixture = targets.gaussian_mixture(jnp.pad(ring, ((0, 0), (0, dim - 2))), jnp.full(8, 0.5))
    return mixture._replace(start=Normal(jnp.zeros(dim), jnp.array(3.0)))


# The first two coordinates of those with a free dimension are distributed as the same target in two: the pictures rely
# on it.
NAMED = {
    "funnel": Named(targets.funnel, 10, ("v", "x_1")),
    "gaussian": Named(_gaussian, 10),
    "mixture": Named(_mixture, 2),
    "ionosphere": Named(targets.ionosphere),
    "sonar": Named(targets.sonar),
    "german_credit": Named(targets.german_credit),
    "seeds": Named(targets.seeds),
    "rats": Named(targets.rats),
    "law_school": Named(targets.law_school),
    "brownian": Named(targets.brownian),
    "cox_process": Named(targets.cox_process),
    "many_well": Named(targets.many_well, 32),
    "double_wells": Named(targets.double_wells),
    "forty_modes": Named(targets.forty_modes, 2),
    "phi_four": Named(targets.phi_four),
    "nice_digits": Named(targets.nice_digits),
    "vae_digits": Named(targets.vae_digits),
    "student_mixture": Named(targets.student_mixture),
    "double_well_particles": Named(targets.double_well_particles),
    "lennard_jones": Named(targets.lennard_jones),
}


def find_target(name: str, dim: int | None, sigma: float | None) -> tuple[Target, Target | None, tuple[str, str]]:
    """The target of a name or of an import path; its density in the plane of its first coordinates; their labels."""
    if name in NAMED:
        named = NAMED[name]
        if named.dim is None:
            target = named.make()
            require(dim in (None, target.dim), "dim", dim, f"left out, for {name} has its own")
            return _looked_for(target, sigma), None, named.labels
        require(dim is None or dim >= 2, "dim", dim, "at least 2")
        return _looked_for(named.make(dim or named.dim), sigma), named.make(2), named.labels
    module, colon, attribute = name.partition(":")
    known = f"one of {', '.join(NAMED)}, or an importable log density as my_module:log_density"
    close = difflib.get_close_matches(name, NAMED, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    if module.endswith(".py"):
        hint = f" (did you mean {module[:-3].replace('/', '.').lstrip('.')}:{attribute or 'log_density'}?)"
    require(bool(colon and module and attribute and not hint), "target", f"{name!r}{hint}", known)
    require(dim is not None, "dim", dim, "given for a log density of your own")
    try:
        log_density = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module can raise anything
        raise ValueError(f"target must be {known}, got {name!r}: {type(error).__name__}: {error}.") from error
    require(callable(log_density), "target", f"{name!r}, a {type(log_density).__name__}", "a function of one point")
    try:
        target = targets.from_log_density(log_density, int(dim or 0), scale=1.0 if sigma is None else sigma)
    except ValueError as error:
        hint = "a density of a PyTree needs ravel_pytree, or dds.sample in Python"
        raise ValueError(f"{error} ({hint})" if "evaluated" in str(error) else str(error)) from error
    return target, target if dim == 2 else None, ("x_1", "x_2")


def _looked_for(target: Target, sigma: float | None) -> Target:
    target = target._replace(structure=None)  # files and pictures are of points
    return target if sigma is None else target._replace(start=Normal(jnp.zeros(target.dim), jnp.array(float(sigma))))
