"""Everything public is documented, with an example, and stands on exactly one page of the site."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import dds

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text() for page in (ROOT / "docs/api").glob("*.md")}


def modules():
    """The modules that users see: not the command, not those for the library's own use."""
    names = (module.name for module in pkgutil.walk_packages(dds.__path__, "dds."))
    hidden = re.compile(r"dds\.(__main__|checks|cli(\..*)?)|.*\._.*")
    return [importlib.import_module(name) for name in names if not hidden.fullmatch(name)]


def public(module):
    """The public functions and classes that a module defines."""
    named = vars(module).items()
    return {name: x for name, x in named if getattr(x, "__module__", None) == module.__name__ and name[0] != "_"}


MODULES = {module.__name__: module for module in modules()}
OBJECTS = {
    f"{module}.{name}": x for module in MODULES for name, x in public(MODULES[module]).items() if hasattr(x, "__name__")
}


@pytest.mark.parametrize("name", OBJECTS)
def test_stands_on_one_page(name):
    module, _, own = name.rpartition(".")
    package = module.rpartition(".")[0]
    # A page shows what its module defines or, if it is a package, exports.
    homes = [module, package] if own in getattr(MODULES.get(package), "__all__", []) else [module]
    directives = [directive for text in PAGES.values() for directive in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert sum(directive in homes for directive in directives) == 1


@pytest.mark.parametrize("name", OBJECTS)
def test_has_docstring_and_example(name):
    docstring = inspect.getdoc(OBJECTS[name])
    assert docstring
    assert not inspect.isfunction(OBJECTS[name]) or re.search(r"^Example:\n +>>> ", docstring, re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_module_has_docstring(name):
    assert MODULES[name].__doc__


@pytest.mark.parametrize("page", PAGES)
def test_page_is_in_navigation(page):
    assert (ROOT / "mkdocs.yml").read_text().count(f": api/{page}\n") == 1


@pytest.mark.parametrize("page", list((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_code_is_read_without_scrolling(page):
    """Code that is shown has at most 80 columns: as many as fit on the site's widest screen."""
    code = re.compile(r"^```(?:python|bash|toml)(?! hide)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    lines = [line for shown in code.findall(page.read_text()) for line in shown.splitlines()]
    assert [line for line in lines if len(line) > 80] == []
