"""`ar3po compare-algorithms` on real parts: two variants, one seed, three steps; then the same command again."""

import json
import subprocess
import sys

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


def test_two_variants_train_once_and_are_compared(tiny_task, tmp_path):
    words = ["run.num_steps=3", "evaluation.every_steps=1", "rollout.prompts_per_step=4"]
    found = compare(tmp_path, *words)
    ar3po, grpo_k = found["variants"]
    assert (ar3po["name"], grpo_k["name"]) == ("ar3po", "grpo_k")
    # The same seed draws the same held-out answers of the same first policy.
    assert ar3po["before"]["mean"] == grpo_k["before"]["mean"]
    assert grpo_k["spent"]["responses"]["mean"] == 3 * 4 * 4
    assert 3 * 4 * 4 <= ar3po["spent"]["responses"]["mean"] <= 3 * 4 * 8
    assert grpo_k["costs"]["responses_per_prompt"]["mean"] == 4
    check_that_one_server_served_both(tmp_path)
    assert (tmp_path / "comparison.md").is_file() and (tmp_path / "comparison.png").is_file()
    written = [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("runs/*/metrics.jsonl"))]
    assert compare(tmp_path, *words) == found
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("runs/*/metrics.jsonl"))] == written
