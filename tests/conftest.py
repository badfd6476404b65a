import jax
import pytest

# To look for examples, pytest imports every file, and this one belongs to a session without JAX and with a browser.
collect_ignore = ["site_in_browser.py"]

WHOLE_RUNS = {
    *("arviz", "choices", "comparison", "exploration", "figures", "remedies"),
    *("results", "sampling", "saving", "search", "smc"),
}
"""The modules whose examples look at a whole target."""

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name.split(".")[1] in WHOLE_RUNS:
            item.add_marker("slow")


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Runs a test in both precisions."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def forgotten(request):
    """Forgets what slow tests compiled: with the programs of all of them in one process XLA was seen to crash."""
    yield
    if request.node.get_closest_marker("slow"):
        jax.clear_caches()
