"""`ar3po compare-algorithms` on real parts: two variants, one seed, three steps; then the same command again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness.trainer_runs import CONFIG, ROOT, SHORT, TIME_LIMIT_S


def compare(out, *words: str) -> dict:
    command = [sys.executable, "-m", "megatron_ar3po.cli", "compare-algorithms", str(CONFIG)]
    options = ["--algorithms", "ar3po,grpo_k", "--seeds", "1", "--out", str(out), "--json"]
    done = subprocess.run(
        [*command, *SHORT[1:], *words, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check_that_one_server_served_both(out) -> None:
    """One log, none in the runs; and the second run's books hold its own requests alone."""
    assert [log.name for log in out.rglob("sglang_*.log")] == ["sglang_dp0.s0.log"]
    for run in out.glob("runs/*"):
        rows = [json.loads(line) for line in (run / "ledger/dp00.jsonl").read_text().splitlines()]
        asked = sum(row["responses"] for row in rows if row["kind"] in ("prompt", "evaluation"))
        [*_, last] = [row for row in rows if row["kind"] == "server" and row["step"] == 3]
        # The last evaluation comes after the last step's books.
        [*_, evaluation] = [row for row in rows if row["kind"] == "evaluation"]
        assert last["requests"] == asked - evaluation["responses"]


WORDS = ["run.num_steps=3", "evaluation.every_steps=1", "rollout.prompts_per_step=4"]


@pytest.fixture(scope="module")
def compared(tiny_task, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("comparison")
    return out, compare(out, *WORDS)


def test_its_page_opens_in_a_browser(compared, browser):
    out, _ = compared
    with browser.open(out / "comparison.html") as opened:
        figures = opened.figures()
        names = {figure.rpartition("-")[0] for figure in figures}
        assert names == {"accuracy", "reward", "responses", "no-signal", "entropy"}
        assert [figure for figure in figures if not opened.marks(figure)] == []
        assert opened.page.inner_text("h1") == "ar3po against grpo_k"
        cells = opened.page.locator("#table tr").first.locator("th").all_inner_texts()
        assert cells == ["", "ar3po", "grpo_k"]
        seeds = opened.page.locator("#table tr").nth(1).locator("td").all_inner_texts()
        assert seeds == ["0", "0"]
        opened.require_quiet()


def test_two_variants_train_once_and_are_compared(compared):
    out, found = compared
    ar3po, grpo_k = found["variants"]
    assert (ar3po["name"], grpo_k["name"]) == ("ar3po", "grpo_k")
    # The same seed draws the same held-out answers of the same first policy.
    assert ar3po["before"]["mean"] == grpo_k["before"]["mean"]
    assert grpo_k["spent"]["responses"]["mean"] == 3 * 4 * 4
    assert 3 * 4 * 4 <= ar3po["spent"]["responses"]["mean"] <= 3 * 4 * 8
    assert grpo_k["costs"]["responses_per_prompt"]["mean"] == 4
    check_that_one_server_served_both(out)
    assert (out / "comparison.md").is_file() and (out / "comparison.png").is_file()
    written = [p.stat().st_mtime_ns for p in sorted(out.glob("runs/*/metrics.jsonl"))]
    assert compare(out, *WORDS) == found
    assert [p.stat().st_mtime_ns for p in sorted(out.glob("runs/*/metrics.jsonl"))] == written
