"""docs/environment.md names every variable that the package reads from its environment."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ("os.environ", "environment", "env", "inherited")


def variables_read(source: str) -> set[str]:
    """Of `environ["X"]`, `environ.get("X")`, `environ.setdefault("X")` and `"X" in environ`, by name; a name that
    stands in a constant of the module is not seen."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ENVIRONMENTS:
            found += [node.slice] if isinstance(node.ctx, ast.Load) else []
        elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
            is_read = node.func.attr in ("get", "setdefault", "pop")
            if is_read and ast.unparse(node.func.value) in ENVIRONMENTS:
                found.append(node.args[0])
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) in ENVIRONMENTS:
            found.append(node.left)
    return {n.value for n in found if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_every_way_to_read_is_seen():
    source = """
os.environ["A"], environment.get("B", ""), env.setdefault("C", "1"), "D" in os.environ
environment["E"] = "1"
settings["F"], settings.get("G")
"""
    assert variables_read(source) == {"A", "B", "C", "D"}


def test_the_page_names_what_is_read():
    page = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Za-z0-9_]+)`", page))
    read = {
        name
        for file in (ROOT / "megatron_ar3po").rglob("*.py")
        for name in variables_read(file.read_text(encoding="utf-8"))
    }
    assert {"HOME", "RANK", "AR3PO_STOP_FILE", "SLURM_NNODES"} <= read
    assert read - named == set()
