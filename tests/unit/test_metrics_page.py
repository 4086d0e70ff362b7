"""docs/metrics.md has every metric that the code records, and none that it does not.

Who records a new one declares it in `observability/declared_metrics.py`, then
`ar3po metrics --markdown > docs/metrics.md`. That a real run writes no other: tests/e2e/test_main_job.py.
"""

from __future__ import annotations

import ast
import doctest
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ar3po import cli
from megatron_ar3po.observability import metric_declarations
from megatron_ar3po.observability.declared_metrics import SECTIONS
from megatron_ar3po.observability.metric_declarations import as_markdown, find_declaration

ROOT = Path(__file__).resolve().parents[2]
DECLARED = [metric for section in SECTIONS for metric in section.metrics]
AREAS = sorted({metric.name.split("/")[0] for metric in DECLARED} | {"history", "replay", "store"})
LOOKS_LIKE_ONE = re.compile(rf"({'|'.join(AREAS)})/[a-z][a-z0-9_/{{}}]*[a-z0-9}}]")
# Made of more than one literal, or counted under the names of a store's decisions.
MADE_OF_PARTS = re.compile(
    r"(eval/)?(source|set)/.*|reuse/.*|time/.*|rollout/cost/.*|group/.*_frac"
)


def names_in(source: str) -> Iterator[str]:
    """What a module spells like a metric: whole strings; in an f-string {} stands for what is filled in."""
    tree = ast.parse(source)
    parts = {
        id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values
    }
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if LOOKS_LIKE_ONE.fullmatch(text):
            yield text


def names_in_package() -> set[str]:
    files = (ROOT / "megatron_ar3po").rglob("*.py")
    return {
        name
        for file in files
        if file.name not in ("declared_metrics.py", "metric_declarations.py")
        for name in names_in(file.read_text(encoding="utf-8"))
    }


def may_be(spelled: str, declared: str) -> bool:
    pattern = "[^/]+".join(re.escape(part) for part in spelled.split("{}"))
    return re.fullmatch(pattern, re.sub(r"\{\w+\}", "x", declared)) is not None


def test_names_are_found_whole_and_with_parts_to_fill_in():
    source = 'a = "rollout/prompts"; b = f"rollout/stage_{n}/responses"; c = "rollout of step 1"; d = "time/"'
    assert set(names_in(source)) == {"rollout/prompts", "rollout/stage_{}/responses"}
    assert doctest.testmod(metric_declarations).failed == 0


def test_every_metric_that_the_code_names_is_declared():
    spelled = names_in_package()
    assert {"reward/mean", "eval/pass_at_{}", "time/step_s", "weight_sync/bytes"} <= spelled
    unknown = {
        name
        for name in spelled
        if not any(may_be(name, metric.name) or metric.declares(name) for metric in DECLARED)
        and not re.fullmatch(r"rollout/ledger|eval/source/{}", name)  # a span, a beginning
    }
    assert unknown == set(), "declare them in observability/declared_metrics.py"


def test_no_metric_is_declared_that_nothing_records():
    spelled = names_in_package()
    unrecorded = {
        metric.name
        for metric in DECLARED
        if not any(may_be(name, metric.name) for name in spelled)
        and not MADE_OF_PARTS.fullmatch(metric.name)
    }
    assert unrecorded == set()


def test_what_a_store_counts_is_declared():
    """Its decisions are counted by name, and become `reuse/NAME`."""
    counted: set[str] = set()
    for file in ("reuse/store.py", "reuse/lending.py", "reuse/deposits.py"):
        text = (ROOT / "megatron_ar3po" / file).read_text(encoding="utf-8")
        counted |= set(re.findall(r'counts\["(\w+)"', text))
        counted |= set(re.findall(r"Counter\((\w+)=", text))
    assert {"loans", "evicted_by_cap", "too_old"} <= counted
    declared = {metric.name for metric in DECLARED}
    assert {f"reuse/{name}" for name in counted} - declared == set()


def test_every_phase_that_is_timed_is_declared():
    spans: set[str] = set()
    for file in (ROOT / "megatron_ar3po").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                called = ast.unparse(node.func).rpartition(".")[2].strip("_")
                if called == "span" and node.args and isinstance(node.args[0], ast.Constant):
                    spans.add(str(node.args[0].value))
    assert {"rollout", "wait_for_servers", "ledger"} <= spans
    ends = {re.split(r"[/]", m.name)[-1] for m in DECLARED if m.name.startswith("time/")}
    assert {f"{span}_s" for span in spans} - ends == set()


def test_each_has_a_unit_and_says_what_it_is_and_no_name_is_there_twice():
    assert [m.name for m in DECLARED if not (m.unit and m.what)] == []
    assert [name for name, count in Counter(m.name for m in DECLARED).items() if count > 1] == []
    shares = [m for m in DECLARED if m.name.endswith("_frac")]
    assert {m.unit for m in shares} == {"share"}
    assert {m.unit for m in DECLARED if m.name.startswith("time/")} == {"seconds"}


def test_the_rows_of_an_old_run_are_declared():
    rows = (ROOT / "tests/fixtures/run_of_0_1_0/run/metrics.jsonl").read_text().splitlines()
    names = {name for row in rows for name in json.loads(row)} - {"step"}
    assert len(names) > 50
    assert {name for name in names if find_declaration(name, SECTIONS) is None} == set()


def test_the_page_is_what_the_command_writes():
    """`ar3po metrics --markdown > docs/metrics.md`."""
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == as_markdown(SECTIONS)


def test_the_command_finds_a_metric_by_a_part_of_its_name_or_as_it_stands_in_a_row(capsys):
    assert cli.main(["metrics", "clip"]) == 0
    assert "actor/clip_frac  (share)" in capsys.readouterr().out
    assert cli.main(["metrics", "rollout/stage_2/responses"]) == 0
    assert "rollout/stage_{stage}/responses" in capsys.readouterr().out


@pytest.mark.parametrize("asked", ["actor/clip_fraction"])
def test_an_unknown_metric_names_the_nearest(asked, capsys):
    assert cli.main(["metrics", asked]) == 2
    assert "the nearest one is actor/clip_frac." in capsys.readouterr().err
