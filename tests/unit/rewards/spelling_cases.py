"""The reader of the two tables beside it, which hold a case a line and the kind of case it is.

`answer_spellings.tsv`: a ground truth and an answer that is equal to it or not. Tabs separate, nothing is quoted or
escaped, so LaTeX stands as it is written. `response_verdicts.jsonl`: a whole response, and whether it holds the answer.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Spelling(NamedTuple):
    kind: str
    ground_truth: str
    answer: str
    is_equal: bool


class Response(NamedTuple):
    kind: str
    response: str
    ground_truth: str
    is_correct: bool


def read_spellings() -> list[Spelling]:
    with (HERE / "answer_spellings.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))
    assert {row["verdict"] for row in rows} == {"equal", "different"}
    return [
        Spelling(row["kind"], row["ground_truth"], row["answer"], row["verdict"] == "equal")
        for row in rows
    ]


def read_responses() -> list[Response]:
    with (HERE / "response_verdicts.jsonl").open(encoding="utf-8") as file:
        return [Response(**json.loads(line)) for line in file]
