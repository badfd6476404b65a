"""Trains the two models of digits and writes `dds/targets/data/*_digits.npz`: `nox -s digits`, some minutes.

The images are those that scikit-learn ships. Of every six, one is held out, and the parameters that do best on those
are kept, in half precision. The targets are what the files say; other machines round differently and train others.
"""

from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dds.targets import digits

DATA = Path(digits.__file__).parent / "data"
SHIFTS, WIDTH, CODE = 4, 64, 16
IMAGE = 0
"""The held-out image whose posterior is the target."""


def network(key, sizes, *, rows=()):
    """Parameters of a perceptron, its last layer near zero; or of several."""
    parameters = {}
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        key, layer_key = jax.random.split(key)
        scale = (0.01 if layer == len(sizes) - 2 else 1.0) / np.sqrt(inputs)
        parameters[f"weights_{layer}"] = scale * jax.random.normal(layer_key, (*rows, inputs, outputs))
        parameters[f"bias_{layer}"] = jnp.zeros((*rows, outputs))
    return parameters


def fit(key, parameters, loss, train, held_out, *, updates, batch=200, rate=1e-3):
    """The parameters with the least loss of the held-out images, looked at every 100 updates."""
    optimiser = optax.adamw(optax.cosine_decay_schedule(rate, updates), weight_decay=1e-3)
    mean = jax.jit(lambda parameters, key, images: mean_of(loss, parameters, key, images))

    @jax.jit
    def block(parameters, state, key):
        def update(carry, key):
            parameters, state = carry
            rows_key, key = jax.random.split(key)
            images = train[jax.random.randint(rows_key, (batch,), 0, len(train))]
            gradient = jax.grad(lambda p: mean_of(loss, p, key, images))(parameters)
            changes, state = optimiser.update(gradient, state, parameters)
            return (optax.apply_updates(parameters, changes), state), None

        return jax.lax.scan(update, (parameters, state), jax.random.split(key, 100))[0]

    state, best, kept = optimiser.init(parameters), np.inf, parameters
    for number, block_key in enumerate(jax.random.split(key, updates // 100)):
        parameters, state = block(parameters, state, block_key)
        value = float(mean(parameters, jax.random.key(0), jnp.concatenate([held_out] * 10)))
        if value < best:
            best, kept = value, parameters
        if number % 10 == 9:
            of_train = float(mean(parameters, jax.random.key(0), train))
            print(
                f"{100 * (number + 1)} updates: loss {of_train:.2f}, held out {value:.2f}, least {best:.2f}", flush=True
            )
    return kept


def mean_of(loss, parameters, key, images):
    return jnp.mean(jax.vmap(loss, (None, 0, 0))(parameters, jax.random.split(key, len(images)), images))


def nice_loss(flow, key, image):
    pixels = (image + jax.random.uniform(key, image.shape)) / (digits.GREYS + 1)
    return -digits._nice_log_density(flow, pixels)


def vae_loss(parameters, key, image):
    """Minus the evidence lower bound, with a normal encoder."""
    mean, log_scale = jnp.split(digits._network(parameters["encoder"], image / digits.GREYS), 2)
    code = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
    log_encoder = jnp.sum(jax.scipy.stats.norm.logpdf(code, mean, jnp.exp(log_scale)))
    return log_encoder - digits._vae_log_density(parameters["decoder"], code, image)


def write(name, parameters):
    np.savez_compressed(DATA / f"{name}.npz", **{k: np.asarray(v, np.float16) for k, v in parameters.items()})


if __name__ == "__main__":
    from sklearn.datasets import load_digits  # the tests, which look into this file for examples, do without it

    images = jnp.asarray(load_digits().data, float)
    held_out = np.arange(len(images)) % 6 == 5
    sets = images[~held_out], images[held_out]
    keys = jax.random.split(jax.random.key(0), 5)

    half = digits.PIXELS // 2
    flow = network(keys[0], (half, WIDTH, WIDTH, half), rows=(SHIFTS,)) | {"log_scale": jnp.full(digits.PIXELS, 2.0)}
    write("nice_digits", fit(keys[1], flow, nice_loss, *sets, updates=20_000))

    coders = {
        "encoder": network(keys[2], (digits.PIXELS, WIDTH, WIDTH, 2 * CODE)),
        "decoder": network(keys[3], (CODE, WIDTH, WIDTH, digits.PIXELS)),
    }
    decoder = fit(keys[4], coders, vae_loss, *sets, updates=20_000)["decoder"]
    write("vae_digits", decoder | {"image": sets[1][IMAGE]})
