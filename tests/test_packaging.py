import ast
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import dds

ROOT = Path(__file__).parents[1]


def test_import_takes_no_optional_package():
    optional = {
        "matplotlib",
        "tyro",
        "rich",
        "PIL",
        "arviz_base",
        "arviz_stats",
        "xarray",
        "scipy.stats",
        "wandb",
        "numpyro",
    }
    program = f"import sys, dds; print(*{optional} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dds.__version__ == project["version"] == metadata.version(project["name"])


def test_is_typed():
    assert resources.files(dds).joinpath("py.typed").is_file()


def test_exports_exist():
    assert all(hasattr(dds, name) for name in dds.__all__)
    assert dds.__all__ == sorted(dds.__all__)
    assert {"sample", "draw", "resample", "save", "load", "plots", "storage", "evaluation"} <= set(dds.__all__)


def test_readme_and_ci_run_the_same_command():
    command = "pip install nox && nox"
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == command
    assert command in (ROOT / "README.md").read_text()


ORDER = [
    "types",
    "checks",
    "compiling",
    "devices",
    "normal",
    "mixtures",
    "references",
    "schedules",
    "kernels",
    "networks",
    "learned",
    "paths",
    "families",
    "origins",
    "losses",
    "estimators",
    "distances",
    "replay",
    "resampling",
    "probability_flow",
    "smc",
    "modes",
    "chains",
    "coordinates",
    "conditional",
    "necks",
    "adaptation",
    "exploration",
    "tails",
    "search",
    "remedies",
    "training",
    "targets",
    "storage",
    "evaluation",
    "trust",
    "recipes",
    "choices",
    "results",
    "sampling",
    "comparison",
    "arviz",
    "saving",
    "progress",
    "_drawing",
    "plots",
    "figures",
    "__init__",
    "cli",
    "__main__",
]


def test_imports_run_one_way():
    # A module imports only those before it; what stands inside a function, as an example or an extra, does not count.
    package = Path(dds.__file__).parent
    for path in package.rglob("*.py"):
        room = path.relative_to(package).with_suffix("").parts[0]
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("dds"):
                continue
            inner = node.module.split(".")[1:]
            for name in inner[:1] or [alias.name for alias in node.names if alias.name in ORDER]:
                assert name == room or ORDER.index(name) < ORDER.index(room), f"{path} imports {name}"
