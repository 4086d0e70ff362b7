"""Files are read and written as UTF-8, whatever the locale says (docs/environment.md): each call names the encoding."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "megatron_ar3po"


def find_calls_without_encoding(source: str) -> Iterator[int]:
    """The lines of calls of open, Path.open, read_text and write_text that leave it to the locale."""
    for call in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)):
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        name = call.func.id if isinstance(call.func, ast.Name) else method
        if name not in ("open", "read_text", "write_text"):
            continue
        words = [a.value for a in call.args if isinstance(a, ast.Constant)]
        words += [k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)]
        modes = [w for w in words if isinstance(w, str) and w and set(w) <= set("rwxabt+")]
        # An `open` of another kind, as a store's, has no mode.
        is_of_text = name != "open" or (bool(modes) and "b" not in modes[0])
        if is_of_text and not ({"encoding"} & {k.arg for k in call.keywords} or "utf-8" in words):
            yield call.lineno


def test_calls_without_an_encoding_are_found():
    source = (
        'p.read_text()\np.write_text(x)\nopen(p, "w")\np.open("a")\np.open(mode="r")\n'
        'p.read_text("utf-8")\np.write_text(x, encoding="utf-8")\np.open("rb")\nstore.open(config)\n'
        'open(p, "w", encoding="utf-8")\n'
    )
    assert list(find_calls_without_encoding(source)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_the_package_leaves_no_encoding_to_the_locale(file):
    assert list(find_calls_without_encoding(file.read_text("utf-8"))) == []
