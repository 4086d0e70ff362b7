"""CONTRIBUTING names what tests patch, and why; nothing else is patched."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def patched_in(source: str) -> set[str]:
    """The last names of what it hands to `monkeypatch.setattr`, `patch` or `patch.object`: "lockf" of
    `setattr(fcntl, "lockf", ...)`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and re.search(
            r"\w\.setattr$|(^|\.)patch(\.object|\.dict)?$", ast.unparse(node.func)
        ):
            names = [
                a.value
                for a in node.args[:2]
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
            found.add(str(names[-1]) if names else ast.unparse(node))
    return found


def test_every_way_to_patch_is_seen() -> None:
    source = """
monkeypatch.setattr(fcntl, "lockf", no_locks)
monkeypatch.setattr("room.module._LIMIT_S", 0.1)
with context as patched, mock.patch("time.time", now), patch.object(writer, "write"):
    patched.setattr(Builder, "seal", killed)
monkeypatch.setenv("HOME", "/")
setattr(self, "name", 1)
"""
    assert patched_in(source) == {"lockf", "room.module._LIMIT_S", "time.time", "write", "seal"}


def test_contributing_names_what_is_patched_and_nothing_more() -> None:
    tests = [p for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__)]
    found = set().union(*(patched_in(path.read_text(encoding="utf-8")) for path in tests))
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [listed] = re.findall(r"Patched is only(.*?)\n- ", page, re.DOTALL)
    assert {name.rsplit(".")[-1] for name in re.findall(r"`([\w.]+)`", listed)} == {
        name.rsplit(".")[-1] for name in found
    }
