"""What only reads a few files answers in less than a second: it imports nothing that takes longer than that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes.reuse_cases import deposit, make_prompt, make_response, open_store

from megatron_ar3po.distributed.rank_status import RankStatus, write_status

HEAVY = {"torch", "sglang", "megatron", "transformers", "sympy", "matplotlib"}
IMPORTED = """
import sys
from megatron_ar3po.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a run of one rank leaves after its first step, as far as these commands read them."""
    folder = tmp_path_factory.mktemp("light") / "run"
    (folder / "status").mkdir(parents=True)
    rows = [{"step": 0, "eval/pass_at_1": 0.25}, {"step": 1, "rollout/responses_total": 8}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ledger").mkdir()
    row = {"kind": "prompt", "step": 1, "position": 0, "prompt_id": "p0", "responses": 1}
    line = json.dumps({**row, "response_tokens": 3, "correct": 1}) + "\n"
    (folder / "ledger" / "dp00.jsonl").write_text(line)
    status = RankStatus(
        rank=0, world_size=1, host="node", pid=os.getpid(), steps_done=1, phase="step",
        phase_s=1.0, num_collectives=3, written=time.time(), end="ended",
    )  # fmt: skip
    write_status(folder / "status", status)
    with open_store(folder / "reuse") as store:
        deposit(store, [make_response(make_prompt(1), 1)], 1)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--help", "where every rank of a run is"),
        ("report RUN --text", "responses generated"),
        ("report RUN", "the report: "),
        ("history RUN", "1 steps, 1 prompts seen"),
        ("status RUN", "1 steps done"),
        ("watch RUN --once", "step 1/1"),
        ("metrics clip", "actor/clip_frac  (share)"),
        ("reuse ls RUN", "response ┃ prompt"),
        ("options rollout", "prompts_per_step"),
        ("train CONFIG --dry-run --no-data", "# a step: 16 prompts"),
    ],
)
def test_a_light_command_imports_nothing_heavy(words, said, run, tiny_task):
    config = run.parent / "config.yaml"
    config.write_text(
        f"model: {{path: {tiny_task}/model}}\n"
        f"data: {{path: {tiny_task}/train.jsonl, max_prompt_tokens: 16}}\n"
        "rollout: {max_response_tokens: 8}\n"
    )
    named = words.replace("RUN", str(run)).replace("CONFIG", str(config)).split()
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *named], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    imported = set(done.stderr.splitlines()[-1].split())
    assert "megatron_ar3po" in imported
    assert imported & HEAVY == set()
