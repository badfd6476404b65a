"""What the site's generator does not do by itself: equations as MathML, and docstrings as they are written here."""

import html
import re
from typing import Any

import griffe
from math_core import LatexToMathML

_EQUATION = re.compile(
    r'(\(?)<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>([),.:;?]*)',
    re.DOTALL,
)
_SUBSCRIPTED = re.compile(r"(<msub(?:sup)?>)(<mi[^>]*>[^<]*</mi>)")
_NAME = re.compile(r"`(dds(?:\.\w+)+)`")
_SHOWN_NAME = re.compile(r"(?<=<code>)dds(?:\.\w+)+(?=</code>)")
_EXPORTED = {"dds.sample": "dds.sampling.sample"}
_CONVERTER = LatexToMathML(fancy_error=False)


def on_page_content(content: str, **_: Any) -> str:
    """Turns the LaTeX that `arithmatex` has marked into MathML: no script, and a mistake in it ends the build.

    The source of a function is not searched: it would be found beside its own documentation. Long names may break after
    their dots.
    """
    source = '<details class="mkdocstrings-source"'
    content = content.replace(source, f"{source} data-search-exclude")
    content = _SHOWN_NAME.sub(
        lambda name: name[0].replace(".", ".<wbr>"), content
    )
    return _EQUATION.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    before, bracket, latex, after = match.groups()
    if bracket == "(":
        mathml = _converted(html.unescape(latex), display=False)
        # Browsers break a line between an equation and what belongs to it.
        return (
            f'<span style="white-space: nowrap">{before}{mathml}{after}</span>'
        )
    # Each part on a line of its own where the screen is too narrow for all: browsers do not break an equation.
    parts = [
        _converted(part, display=True) for part in _parts(html.unescape(latex))
    ]
    return f'{before}<div class="equation">{"".join(parts)}</div>{after}'


def _converted(latex: str, display: bool) -> str:
    mathml = _CONVERTER.convert_with_local_state(latex, displaystyle=display)
    # Browsers lower the subscript of a letter that descends, TeX does not. Without depth, y_k looks like x_k.
    return _SUBSCRIPTED.sub(r'\1<mpadded depth="0">\2</mpadded>', mathml)


def _parts(latex: str) -> list[str]:
    """What quads separate in an equation, those inside of braces and environments left alone."""
    parts, depth = [""], 0
    for token in re.split(
        r"(\\q?quad\b|\\begin\b|\\end\b|\\left\b|\\right\b|\\[{}]|[{}])", latex
    ):
        depth += token in ("{", "\\begin", "\\left")
        depth -= token in ("}", "\\end", "\\right")
        if token in ("\\quad", "\\qquad") and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


class Docstrings(griffe.Extension):
    """Reads `Example:` and `References:`, links names, tidies types, and shows what a package exports as its own."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Prepares one object."""
        if obj.docstring:
            text = re.sub(
                r"^Example:$",
                "Examples:",
                obj.docstring.value,
                flags=re.MULTILINE,
            )
            text = re.sub(
                r"^References:\n((?: {4}.*\n?)+)",
                _paragraph,
                text,
                flags=re.MULTILINE,
            )
            obj.docstring.value = _NAME.sub(_link, text)
        for annotation in _annotations(obj):
            _tidy(annotation)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Moves the exports of subpackages out of the modules that define them."""
        for package in pkg.modules.values():
            for module in list(package.modules.values()):
                for name in {str(name) for name in package.exports or []} & set(
                    module.members
                ):
                    package.set_member(
                        name, griffe.Alias(name, module[name], parent=package)
                    )


def _paragraph(match: re.Match[str]) -> str:
    return "**References:** " + re.sub(
        r"^ {4}", "", match[1], flags=re.MULTILINE
    )


def _link(match: re.Match[str]) -> str:
    return f"[`{match[1]}`][{_EXPORTED.get(match[1], match[1])}]"


def _annotations(obj: griffe.Object) -> list[Any]:
    if isinstance(obj, griffe.Function):
        return [
            obj.returns,
            *(parameter.annotation for parameter in obj.parameters),
        ]
    return (
        [obj.annotation, obj.value] if isinstance(obj, griffe.Attribute) else []
    )


def _tidy(expression: Any) -> None:
    """Writes `' dim'`, where the blank only tells a shape from a name, as `"dim"`."""
    if isinstance(expression, griffe.ExprTuple):
        expression.elements = [
            f'"{part[1:-1].strip()}"'
            if isinstance(part, str) and part[:1] in "\"'"
            else part
            for part in expression.elements
        ]
    if isinstance(expression, griffe.Expr):
        for part in expression.iterate(flat=False):
            if part is not expression:
                _tidy(part)
