"""The pure half of tools/prepare_dapo_math.py. Not exercised: the download."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from prepare_dapo_math import INSTRUCTION, records, write


def test_a_problem_is_kept_once_with_its_answer_and_never_when_it_is_held_out(tmp_path):
    rows = [
        {"prompt": " 1 + 1? ", "solution": "2"},
        {"prompt": "1 + 1?", "solution": "2"},
        {"prompt": "no answer", "solution": " "},
        {"prompt": "held out", "solution": "3"},
    ]
    kept = list(records(rows, "prompt", "solution", {"held out"}))
    assert kept == [{"prompt": f"1 + 1?\n\n{INSTRUCTION}", "answer": "2"}]
    assert write(tmp_path / "data" / "train.jsonl", kept) == 1
    assert [json.loads(x) for x in (tmp_path / "data/train.jsonl").read_text().splitlines()] == kept
