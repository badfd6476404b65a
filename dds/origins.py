r"""Where the paths of a loss come from, where they need not be the sampler's own.

A loss that takes paths without a gradient, as `dds.losses.log_variance` and those of trajectory balance, is zero at the
target whatever paths it sees, so these can be drawn where there is something to learn. An origin is a function
`(sampler, key, paths) -> states`; one of your own is a function like those here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import devices
from dds.checks import require, typed
from dds.paths import noise_path, sample_path
from dds.types import Arrays, KeyArray, Origin, Row, Sampler, State, Transitions


@typed
def own(sampler: Sampler, key: KeyArray, paths: int) -> Float[Array, "paths states size"]:
    """The sampler's own paths.

    Args:
        sampler: The sampler.
        key: The random key.
        paths: The number of paths.

    Returns:
        The states of the paths.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> own(sampler, jax.random.key(1), 10).shape
        (10, 1, 2)
    """
    return devices.share(lambda key: sample_path(key, sampler).states)(jax.random.split(key, paths))


@typed
def exploring(factor: float) -> Origin:
    """Paths of the sampler with wider steps, which go where it does not.

    Args:
        factor: What the standard deviation of each step ahead is multiplied by, positive.

    Returns:
        The origin.

    Raises:
        ValueError: If `factor` is not positive.

    References:
        Lahlou, Deleu, Lemos, Zhang, Volokhova, Hernández-García, Néhale Ezzine, Bengio and Malkin (2023), A theory of
        continuous generative flow networks.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> exploring(1.5)(sampler, jax.random.key(1), 10).shape
        (10, 1, 2)
    """
    require(0 < factor < float("inf"), "factor", factor, "positive and finite")

    def wider(sampler: Sampler, key: KeyArray, paths: int) -> Float[Array, "paths states size"]:
        def apply(y: State, row: Row) -> Transitions:
            transitions = sampler.kernel.apply(y, row)
            forward = transitions.forward
            return transitions._replace(forward=forward._replace(scale=factor * forward.scale))

        return own(sampler._replace(kernel=sampler.kernel._replace(apply=apply)), key, paths)

    return wider


@typed
def back_from(sampler: Sampler, key: KeyArray, points: Float[Arrays, "paths dim"]) -> Float[Array, "paths states size"]:
    """A path back from each of given points.

    Args:
        sampler: The sampler.
        key: The random key.
        points: The points, in the user's coordinates.

    Returns:
        The states of the paths.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> back_from(sampler, jax.random.key(1), jnp.ones((3, 2))).shape
        (3, 1, 2)
    """
    points = jnp.asarray(points)
    keys = jax.random.split(key, len(points))
    return devices.share(lambda key, x: noise_path(key, sampler, x).states)(keys, points)


@typed
def noised(points: Float[Arrays, "points dim"]) -> Origin:
    """Paths that end in given points, as many as are wanted drawn of them at random.

    Args:
        points: The points, in the user's coordinates: of the target, or of a buffer (`dds.replay`).

    Returns:
        The origin.

    Raises:
        ValueError: If there are no points.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> noised(jnp.ones((1, 2)))(sampler, jax.random.key(1), 1).tolist()
        [[[1.0, 1.0]]]
    """
    require(len(points) >= 1, "points", "none", "one or more")

    def back(sampler: Sampler, key: KeyArray, paths: int) -> Float[Array, "paths states size"]:
        choose_key, noise_key = jax.random.split(key)
        return back_from(sampler, noise_key, jax.random.choice(choose_key, jnp.asarray(points), (paths,)))

    return back


@typed
def mixed(share: float, one: Origin, other: Origin) -> Origin:
    """Paths of two origins.

    Args:
        share: The share of the first, in [0, 1].
        one: The first.
        other: The second.

    Returns:
        The origin.

    Raises:
        ValueError: If `share` is outside of [0, 1].

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> both = mixed(0.25, noised(jnp.zeros((1, 2))), own)
        >>> int(jnp.sum(both(sampler, jax.random.key(1), 8) == 0)) // 2
        2
    """
    require(0 <= share <= 1, "share", share, "in [0, 1]")

    def both(sampler: Sampler, key: KeyArray, paths: int) -> Float[Array, "paths states size"]:
        keys, first = jax.random.split(key), round(share * paths)
        parts = zip((one, other), keys, (first, paths - first), strict=True)
        return jnp.concatenate([origin(sampler, key, count) for origin, key, count in parts if count])

    return both
