import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dds import compiling


@pytest.mark.parametrize("count", [1, 3, 64, 65, 100, 128])
def test_in_batches_is_vmap_by_one_program(count):
    traced = []

    def one(x, key):
        traced.append(x)
        return jnp.sum(x) + jax.random.normal(key), x

    x, keys = jax.random.normal(jax.random.key(0), (count, 3)), jax.random.split(jax.random.key(1), count)
    found = jax.jit(compiling.in_batches(one, 64))(x, keys)
    assert len(traced) == 1
    for theirs, ours in zip(jax.vmap(one)(x, keys), found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


KEPT = """
import sys
import jax
import jax.numpy as jnp
from dds import compiling

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
folder = compiling.keep()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.linalg.cholesky(jnp.sin(x) @ x + 9 * jnp.eye(3)))(jnp.ones((3, 3)))
print(len(hits), jax.config.jax_logging_level, folder)
"""


def test_a_second_process_takes_the_programs_of_the_first_and_says_nothing(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env["XDG_CACHE_HOME"] = str(tmp_path)
    call = [sys.executable, "-c", KEPT]
    first, second = (subprocess.run(call, env=env, capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stderr == second.stderr == ""
    folder = tmp_path / "dds-jax" / compiling.processor()
    assert first.stdout.split() == ["0", "NOTSET", str(folder)]
    taken, level, _ = second.stdout.split()
    assert int(taken) >= 1
    assert level == "NOTSET"
    assert list(folder.iterdir())


def test_programs_are_kept_where_the_user_says_or_not_at_all(tmp_path, monkeypatch):
    settings: Any = jax.config
    before = settings.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        assert compiling.keep() == tmp_path / "mine"
        jax.config.update("jax_compilation_cache_dir", None)
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert compiling.keep() is None
        assert settings.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_another_cpu_has_another_folder(monkeypatch):
    told = "processor\t: {}\ncpu MHz\t: {}\nflags\t\t: fpu {}\n\nprocessor\t: 1\n"

    def name(*text):
        monkeypatch.setattr("pathlib.Path.read_text", lambda self: told.format(*text))
        return compiling.processor()

    assert name(0, 2000, "avx2") == name(0, 2100, "avx2")
    assert name(0, 2000, "avx2") != name(0, 2000, "avx512f")
