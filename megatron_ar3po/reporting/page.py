"""A report as one HTML file that needs nothing else: figures with the library that draws them, styles, and data.

Nothing of it may ask for anything: the page forbids itself every request (Content-Security-Policy). What models wrote
is data, never markup: texts are escaped, and JSON holds no `<`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent / "page_files"
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, a sentence that says what to look for, and figures (`plots.figure`) or markup of its own."""

    key: str
    title: str
    look_for: str
    figures: tuple[str, ...] = ()
    markup: str = ""  # escaped already


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    title: str
    subtitle: str
    sections: Sequence[Section]
    findings: Sequence[tuple[str, str, str]] = ()  # key, mark, sentence
    notes: Sequence[str] = ()
    data: dict[str, Any] = field(default_factory=dict)  # for page.js: samples, prompts


def render_page(page: Page) -> Iterator[str]:
    """The parts of the file, in order."""
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(page.title)}</title>\n'
    )
    yield f"<style>\n{_read('page.css')}</style>\n</head>\n<body>\n"
    yield from _header(page)
    for section in page.sections:
        yield from _section(section)
    yield "</main>\n"
    for key, value in page.data.items():
        yield f'<script type="application/json" id="data-{key}">{script_json(value)}</script>\n'
    if any(section.figures for section in page.sections):
        yield f"<script>{_plotly()}</script>\n"
    yield f"<script>\n{_read('page.js')}</script>\n</body>\n</html>\n"


def write_page(page: Page, path: Path) -> None:
    """A temporary file becomes `path` when it is whole."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.writelines(render_page(page))
    temporary.replace(path)


def escape(text: object) -> str:
    """For markup. A control character becomes a picture of itself; a lone surrogate, which no file can hold, the sign
    for a character that is none.

    >>> escape('<b>"a"\\x00'), escape("\\ud800")
    ('&lt;b&gt;&quot;a&quot;␀', '\ufffd')
    """
    whole = str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return html.escape(_CONTROLS.sub(lambda m: chr(0x2400 + ord(m.group())), whole))


def script_json(value: object) -> str:
    """JSON that can stand in a script element whatever its texts are.

    >>> script_json("</script>\\ud800")
    '"\\\\u003c/script>\\\\ud800"'
    """
    return escape_script(json.dumps(value, separators=(",", ":"), allow_nan=False))


def escape_script(text: str) -> str:
    return text.replace("<", "\\u003c")


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Markup of a table; the first cell of a row is its name."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + f"<th scope=row>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(c)}</td>" for c in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'


def _header(page: Page) -> Iterator[str]:
    yield (
        f"<header><div><h1>{escape(page.title)}</h1><p>{escape(page.subtitle)}</p></div>"
        '<button id="theme" type="button" aria-label="light or dark">◐</button></header>\n<main>\n'
    )
    if page.notes:
        items = "".join(f"<p>{escape(note)}</p>" for note in page.notes)
        yield f'<aside id="notes">{items}</aside>\n'
    if page.findings:
        items = "".join(
            f'<li class="{mark}" data-finding="{key}">{escape(text)}</li>'
            for key, mark, text in page.findings
        )
        yield f'<ul id="findings">{items}</ul>\n'
    links = "".join(f'<a href="#{s.key}">{escape(s.title)}</a>' for s in page.sections)
    yield f"<nav>{links}</nav>\n"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{section.key}"><h2>{escape(section.title)}</h2>\n'
    if section.figures:
        yield '<div class="figures">'
        for number, figure in enumerate(section.figures, start=1):
            yield (
                f'<div class="figure" id="{section.key}-{number}"></div>'
                f'<script type="application/json" data-figure="{section.key}-{number}">'
                f"{escape_script(figure)}</script>\n"
            )
        yield "</div>"
    if section.look_for:
        yield f'<p class="look">{escape(section.look_for)}</p>\n'
    yield f"{section.markup}</section>\n"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")
