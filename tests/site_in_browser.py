"""The built site in a real browser, without a network: `nox -s docs browser`. Screenshots go to `build/screenshots`."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
SITE, SHOTS = ROOT / "site", ROOT / "build/screenshots"
PAGES = sorted(str(page.parent.relative_to(SITE)) for page in SITE.glob("**/index.html"))
VIEWS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser: Browser, url: str, view: str) -> tuple[Page, list[str]]:
    page = browser.new_context(**VIEWS[view]).new_page()
    complaints: list[str] = []

    def local_only(route):
        if route.request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            route.continue_()
        else:
            complaints.append(f"asks for {route.request.url}")
            route.abort()

    page.route("**/*", local_only)
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on(
        "response", lambda answer: complaints.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else 0
    )
    page.goto(url, wait_until="networkidle")
    return page, complaints


def test_there_is_a_site():
    assert len(PAGES) > 30


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_page(browser, address, name, view):
    page, complaints = visit(browser, f"{address}/{name}/", view)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name.replace('/', '-').strip('.') or 'index'}-{view}.png", full_page=True)
    # Of a picture in two schemes one is shown; what is shown is there.
    broken = "images => images.filter(i => i.checkVisibility() && !(i.complete && i.naturalWidth)).map(i => i.src)"
    assert page.eval_on_selector_all("article img", broken) == []
    unnamed = "images => images.filter(i => !i.alt).map(i => i.src)"
    assert page.eval_on_selector_all("article img", unnamed) == []
    flat = "all => all.filter(m => m.checkVisibility() && m.getBoundingClientRect().height < 5).length"
    assert page.eval_on_selector_all("article math", flat) == 0
    assert "\\(" not in page.inner_text("article").replace("\\(\\", "")  # LaTeX that was not converted
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), "wider than the screen"
    # Nothing has to be scrolled to be read, unfolded sources included: on a phone code alone.
    page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    kinds = "article pre > code" if view == "desktop" else "article .output pre > code"
    wide = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 200))"
    assert page.eval_on_selector_all(f"{kinds}, article .equation math", wide) == []
    assert complaints == []
    page.context.close()


WORDS = ["sample_path", "log_density", "Bayes factor", "progress bar", "corner plot", "checkpoint", "compare models"]


@pytest.mark.parametrize("words", WORDS)
def test_search_finds(browser, address, words):
    page, complaints = visit(browser, address, "desktop")
    page.keyboard.press("/")
    page.keyboard.type(words)
    page.wait_for_selector(".md-search-result__item")
    assert words.split("_")[0].lower() in page.inner_text(".md-search-result__list").lower()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.partition("?")[0].rstrip("/") != address)
    assert complaints == []
    page.context.close()


def test_the_keyboard_reaches_the_content(browser, address):
    page, _ = visit(browser, address, "desktop")
    page.keyboard.press("Tab")
    assert "md-skip" in page.evaluate("document.activeElement.className").split()
    page.keyboard.press("Enter")
    assert page.url.partition("#")[2]
    page.context.close()
