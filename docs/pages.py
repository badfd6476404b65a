"""Runs the code of pages when the site is built, and shows what it prints and draws below it.

A fence that opens with "```python" is run, each page in a namespace and a folder of its own; one that opens with
"```py" is only shown. Words after the language say more:

- `alt="..."`: the description of the picture, required where there is one; `|` stands between those of several;
- `hide`: the code is not shown, only what it gives;
- `raises`: it ends in an error, of which the last line is shown.

A page that has `notebook: true` in its front matter can be downloaded as a notebook; one that has `kernel: own` shares
its kernel with no other page. What a run gives is kept in `.cache/pages`, under a hash of the page, of this folder's
code and of the library.
"""

import asyncio
import base64
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jaxlib.version
import nbformat
from jupyter_client.manager import AsyncKernelManager
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache/pages"
KERNELS = 2
"""The number of pages that run at once, each on one core."""

# Most of the time of a short run is compilation, so it is asked for less effort.
_QUICK = {
    "xla_backend_optimization_level": "1",
    "xla_llvm_disable_expensive_passes": "true",
}
if jaxlib.version.__version_info__ < (0, 11):  # a later XLA ends at this flag
    _QUICK["xla_cpu_use_fusion_emitters"] = "false"
ENVIRONMENT = {
    "XLA_FLAGS": " ".join(
        f"--{name}={value}" for name, value in _QUICK.items()
    ),
    "NPROC": "1",
    "DDS_DOCS": str(ROOT / "docs"),
    "PYTHONPATH": str(ROOT / "docs"),
}

_FENCE = re.compile(
    r"^```python\b([^\n]*)\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL
)
_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n", re.MULTILINE | re.DOTALL)
_FRESH = "import os\nos.chdir({folder!r})\n%reset -f\nimport kernel\ndel kernel"
_INSTALL = """\
# On Colab, upload the wheel that `pip wheel --no-deps .` makes in a checkout, and run
# %pip install -q "$(ls dds_jax-*.whl)[cli]"
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Runs all pages that have code, and adds the pictures and notebooks that come of it."""
    pages = [
        file
        for file in files.documentation_pages()
        if _FENCE.search(file.content_string)
    ]
    for file, notebook in zip(pages, asyncio.run(_run_all(pages)), strict=True):
        text, front = file.content_string, _front(file)
        shown, pictures = _render(file, notebook)
        file.content_string = front + shown
        for name, content in pictures.items():
            files.append(File.generated(config, name, content=content))
        if "notebook: true" in front:
            content = nbformat.writes(_download(_cells(text)))
            files.append(
                File.generated(
                    config,
                    re.sub(r"\.md$", ".ipynb", file.src_uri),
                    content=content,
                )
            )
    return files


async def _run_all(pages: list[File]) -> list[NotebookNode]:
    # Long ones first, so that none runs alone in the end.
    notebooks, waiting = (
        {},
        iter(
            sorted(
                pages, key=lambda page: len(page.content_string), reverse=True
            )
        ),
    )

    async def work() -> None:
        async with _kernel() as kernel:
            for page in waiting:  # each takes the next one
                notebooks[page.src_uri] = await _run(page, kernel)

    await asyncio.gather(*(work() for _ in range(KERNELS)))
    return [notebooks[page.src_uri] for page in pages]


@asynccontextmanager
async def _kernel() -> AsyncIterator[AsyncKernelManager]:
    """A kernel that starts when it is first asked."""
    kernel = AsyncKernelManager(kernel_name="python3")
    try:
        yield kernel
    finally:
        if kernel.has_kernel:
            await kernel.shutdown_kernel(now=True)


async def _run(page: File, kernel: AsyncKernelManager) -> NotebookNode:
    kept = CACHE / f"{_key(page.content_string)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        notebook = new_notebook(
            cells=[
                new_code_cell(_FRESH.format(folder=folder)),
                *_cells(page.content_string),
            ]
        )
        client = NotebookClient(
            notebook,
            km=None if "kernel: own" in _front(page) else kernel,
            timeout=600,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            await client.async_execute(env=os.environ | ENVIRONMENT)
        except CellExecutionError as error:
            raise PluginError(f"{page.src_uri}: {error}") from error
    del notebook.cells[0]
    CACHE.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
    return notebook


def _front(page: File) -> str:
    front = _FRONT_MATTER.match(page.content_string)
    return front[0] if front else ""


def _key(text: str) -> str:
    sources = [
        *sorted(ROOT.glob("dds/**/*.py")),
        *sorted(ROOT.glob("docs/*.py")),
        ROOT / "docs/results.json",
    ]
    parts = [
        text,
        metadata.version("jax"),
        *(source.read_text() for source in sources),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _cells(text: str) -> list[NotebookNode]:
    """The cells of a page: its prose, and its code with what its fence says of it."""
    cells, end = [], 0
    text = _FRONT_MATTER.sub("", text)
    for fence in _FENCE.finditer(text):
        words = dict(re.findall(r'(\w+)(?:="(.*?)")?', fence[1]))
        tags = ["raises-exception"] if "raises" in words else []
        cells.append(new_markdown_cell(text[end : fence.start()]))
        cells.append(
            new_code_cell(
                fence[2].rstrip("\n"), metadata={"words": words, "tags": tags}
            )
        )
        end = fence.end()
    return [*cells, new_markdown_cell(text[end:])]


def _render(page: File, notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook that has run, and the files of its pictures."""
    parts, pictures = [], {}
    stem = Path(page.src_uri).stem
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        words = cell.metadata["words"]
        if "hide" not in words:
            parts.append(f"```python\n{cell.source}\n```")
        descriptions = iter(words.get("alt", "").split("|"))
        several: dict[str, str] = {}
        for output in cell.outputs:
            for kind, content in _shown(output):
                if not kind.startswith("image/"):
                    parts.append(
                        content
                        if kind == "text/markdown"
                        else f"``` {{ .text .output }}\n{content}\n```"
                    )
                    continue
                if not (description := next(descriptions, "")):
                    raise PluginError(
                        f'{page.src_uri}: a picture needs alt="..." on the fence of\n{cell.source}'
                    )
                name = f"{stem}-{len(pictures) + 1}.{kind[6:9]}"
                scheme = {"dark": "#only-dark", "light": "#only-light"}.get(
                    kind.partition(";")[2], ""
                )
                pictures[str(Path(page.src_uri).with_name(name))] = (
                    base64.b64decode(content)
                )
                picture = f"![{description}]({name}{scheme})"
                if "|" in words["alt"]:
                    several[description] = (
                        several.get(description, "") + picture
                    )
                else:
                    parts.append(picture)
                if scheme == "#only-light":
                    descriptions = iter([description, *descriptions])
        if several:
            figures = [
                f"<figure markdown='span'>{picture}<figcaption>{description}</figcaption></figure>"
                for description, picture in several.items()
            ]
            inner = "\n\n".join(figures)
            parts.append(
                f"<div class='pictures' markdown>\n\n{inner}\n\n</div>"
            )
    return "\n\n".join(parts) + "\n", pictures


def _shown(output: NotebookNode) -> Iterator[tuple[str, Any]]:
    """What of an output stands on the page, as pairs of kind and content."""
    if output.output_type == "stream":
        if output.name == "stdout":
            yield "text/plain", output.text.rstrip("\n")
    elif output.output_type == "error":
        yield "text/plain", f"{output.ename}: {output.evalue}"
    elif schemes := sorted(
        (kind for kind in output.data if ";" in kind), reverse=True
    ):  # light, then dark
        yield from ((kind, output.data[kind]) for kind in schemes)
    else:
        kind = next(
            kind
            for kind in ("text/markdown", "text/plain")
            if kind in output.data
        )
        yield kind, output.data[kind]


def _download(cells: list[NotebookNode]) -> NotebookNode:
    """The notebook to download: without what the site hides."""
    shown = [
        cell for cell in cells if "hide" not in cell.metadata.get("words", {})
    ]
    for cell in shown:
        cell.metadata.pop("words", None)
    spec = {
        "kernelspec": {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
    }
    return new_notebook(cells=[new_code_cell(_INSTALL), *shown], metadata=spec)
