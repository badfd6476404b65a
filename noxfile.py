"""The checks: `nox` runs those that take minutes, `nox -s NAME` one of them; arguments follow `--`."""

import re
import shutil
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")

nox.needs_version = ">=2025.5.1"
nox.options.reuse_venv = "yes"


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    install(session, "lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Static types."""
    install(session, "types", ".[cli,wandb]")
    # Silent about newer versions of itself, for it would ask a registry for them.
    session.run("pyright", *session.posargs, env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """Tests and examples of docstrings that take seconds: closed forms and properties."""
    test(session)


@nox.session(default=False, python=["3.12", "3.13"])
def newer(session: nox.Session) -> None:
    """The same tests with newer interpreters, for which there are newer releases of JAX; those that exist here."""
    test(session)


def test(session: nox.Session) -> None:
    install(session, "test", ".[cli,wandb]")
    # Nearly all of the time goes into compilation, so it is asked for less effort; `slow` compiles as users do.
    # From 0.11 on XLA would end the process at a flag that it does not know any more.
    old = session.run("python", "-c", "import jaxlib.version as v; print(v.__version_info__ < (0, 11))", silent=True)
    emitters = " --xla_cpu_use_fusion_emitters=false" if "True" in str(old) else ""
    rolled = " --xla_backend_extra_options=xla_cpu_disable_loop_unrolling,xla_cpu_disable_slp_vectorizer"
    flags = f"--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1{emitters}{rolled}"
    pytest(session, "not slow", XLA_FLAGS=flags)


@nox.session
def slow(session: nox.Session) -> None:
    """Whole runs and statistical tests, and examples that are whole runs."""
    install(session, "test", ".[cli,wandb]")
    pytest(session, "slow")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in `site/`, with the code of its pages run; any warning is an error."""
    install(session, "docs", ".[cli,wandb]")
    session.run("mkdocs", *(session.posargs or ["build"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def browser(session: nox.Session) -> None:
    """The built site in headless Chromium, if there is one; screenshots in `build/screenshots`."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.skip("no Chromium is installed")
    if not Path("site/index.html").exists():
        session.error("there is no site yet: nox -s docs browser")
    install(session, "browser")
    # The tests' own conftest needs JAX, the browser does not.
    session.run("pytest", "--noconftest", "-o", "python_files=site_*.py", "tests", *session.posargs)


@nox.session(default=False)
def zensical(session: nox.Session) -> None:
    """What Zensical, which is to follow MkDocs, makes of the site, in `build/zensical`, and what it leaves undone."""
    install(session, "zensical")
    config, site = Path("zensical.yml"), Path("build/zensical")
    # It runs no hooks, so it warns of what is left of fences that they read: no reason to stop.
    config.write_text(f"INHERIT: mkdocs.yml\nsite_dir: {site}\nstrict: false\n")
    try:
        session.run("zensical", "build", "--config-file", str(config))
    finally:
        config.unlink()
    pages = [page.read_text() for page in site.glob("**/index.html")]
    objects, equations = (sum(page.count(mark) for page in pages) for mark in ('<h2 id="dds.', 'class="arithmatex"'))
    sources = [page.read_text() for page in Path("docs").glob("**/*.md")]
    fences = sum(len(re.findall("^```python", source, re.MULTILINE)) for source in sources)
    session.log(f"Built: {len(pages)} pages, and {objects} objects of the reference.")
    session.log(f"Not done, for want of hooks: {equations} equations are still LaTeX, {fences} fences were not run.")


@nox.session(default=False)
def digits(session: nox.Session) -> None:
    """Trains the models of digits that two targets are made of, anew; minutes."""
    install(session, "digits", ".")
    session.run("python", "tests/digits.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Timings."""
    install(session, "bench", ".[cli,wandb]")
    session.run("pytest", "-o", "python_files=bench_*.py", "tests", *session.posargs)


@nox.session(default=False)
def scaling(session: nox.Session) -> None:
    """Times and memory on this machine, into `docs/scaling.json` and `docs/scaling.md`; resumable, some ten minutes."""
    install(session, "test", ".[cli]")
    session.run("python", "tests/scaling.py", *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """The same on a GPU, with the JAX that drives it; skipped where there is none."""
    if not shutil.which("nvidia-smi"):
        session.skip("there is no NVIDIA GPU here: nvidia-smi is not found")
    session.install("--no-compile", ".[cli]", "jax[cuda13]")
    session.run("python", "tests/scaling.py", "--gpu", *session.posargs)


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """Other ways to log Z on the same targets, three seeds, into `docs/compared.md`; resumable, most of an hour."""
    install(session, "compare", ".[cli,wandb]")
    session.run("python", "tests/compare.py", *session.posargs)


@nox.session(default=False)
def field(session: nox.Session) -> None:
    """Samplers and losses of the field with equal budgets, three seeds, into `docs/field.md`; resumable, an hour."""
    install(session, "test", ".[cli,wandb]")
    session.run("python", "tests/field.py", *session.posargs)


@nox.session(default=False)
def sinkhorn(session: nox.Session) -> None:
    """How far samples are from exact ones, on forty modes and a Student mixture, as benchmarks measure it; minutes."""
    install(session, "sinkhorn", ".")
    session.run("python", "tests/sinkhorn.py", *session.posargs)


@nox.session(default=False)
def particles(session: nox.Session) -> None:
    """Energies and distances of particles against those of long chains of BlackJAX; half an hour."""
    install(session, "compare", ".")
    session.run("python", "tests/particles.py", *session.posargs)


@nox.session(default=False)
def paper(session: nox.Session) -> None:
    """Plain DDS on the funnel in the paper's setting, at 64 and 128 steps."""
    install(session, "test", ".[cli,wandb]")
    for steps in ("64", "128"):
        session.run("python", "tests/paper.py", "--steps", steps, *session.posargs)


@nox.session(default=False)
def problems(session: nox.Session) -> None:
    """Some 60 problems unlike the benchmarks, two seeds each: was the answer right, and was it trusted? Resumable."""
    install(session, "test", ".[cli,wandb]")
    session.run("python", "tests/problem_set.py", *session.posargs)


@nox.session(default=False)
def results(session: nox.Session) -> None:
    """The command on all targets over five seeds, into `docs/results.json` and `docs/results.md`; resumable."""
    install(session, "test", ".[cli,wandb]")
    session.run("python", "tests/results.py", *session.posargs)


def install(session: nox.Session, group: str, *packages: str) -> None:
    session.install("--no-compile", *packages, *nox.project.dependency_groups(PROJECT, group))


def pytest(session: nox.Session, marked: str, **env: str) -> None:
    # `--pyargs dds` takes the examples from the installed package, not the checkout: what the wheel lacks is missed.
    # Two processes, each with tests that stand side by side: these share programs.
    # Examples with the same target, and commands that run again after they were killed, find the programs of the first.
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(Path(session.create_tmp()).resolve() / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.02",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    workers, where = ("-n", "2", "--dist", "worksteal"), ("tests", "--doctest-modules", "--pyargs", "dds")
    session.run("pytest", *workers, "-m", marked, *where, *session.posargs, env=compiled | env)
