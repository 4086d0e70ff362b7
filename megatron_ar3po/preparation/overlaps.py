"""Files of problems held against each other: what of a training file stands in which benchmark, and the training file
without it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from megatron_ar3po.data.row_files import get_field, read_rows
from megatron_ar3po.preparation.contamination import BenchmarkIndex, Kind
from megatron_ar3po.preparation.normalised import hash_row

KINDS: tuple[Kind, ...] = ("exact", "one word", "13-gram")
VERDICTS = ("same", "variant", "setting", "different")


class Problem(NamedTuple):
    where: str
    text: str
    answer: str
    name: str  # its id, or where it stands

    @property
    def hash(self) -> str:
        return hash_row(self.text, self.answer)


class Pair(NamedTuple):
    benchmark: Problem
    training: Problem
    kind: Kind
    shared: int  # 13-grams
    verdict: str = ""  # of a reader; empty: nobody has judged it

    @property
    def is_overlap(self) -> bool:
        """Unless a reader has called it another problem."""
        return self.kind == "exact" or self.verdict != "different"

    def as_row(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark.name,
            "training": self.training.name,
            "hashes": [self.benchmark.hash, self.training.hash],
            "kind": self.kind,
            "shared": self.shared,
            "verdict": self.verdict,
        }


@dataclass(slots=True)
class Overlaps:
    pairs: list[Pair] = field(default_factory=list[Pair])
    lines: set[str] = field(default_factory=set[str])  # of the training file, that overlap
    num_training: int = 0

    def count(self, path: Path) -> Counter[str]:
        """Rows of the benchmark at `path` by the surest kind in which a training row meets them."""
        surest: dict[str, int] = {}
        for pair in self.pairs:
            where = pair.benchmark.where
            if pair.is_overlap and where.rpartition(":")[0] == str(path):
                rank = KINDS.index(pair.kind)
                surest[where] = min(rank, surest.get(where, rank))
        return Counter(KINDS[rank] for rank in surest.values())


def read_problems(path: Path, prompt_field: str, answer_field: str) -> list[Problem]:
    """Raises ValueError for a row without a problem, with file and line."""
    return [_problem_of(where, row, prompt_field, answer_field) for where, row in read_rows(path)]


def find_overlaps(
    training: Path,
    benchmarks: Sequence[Problem],
    *,
    prompt_field: str,
    answer_field: str,
    judged: Mapping[tuple[str, str], str] | None = None,
) -> Overlaps:
    """`judged`: verdicts by the hashes of a benchmark's and a training row."""
    index = BenchmarkIndex(problem.text for problem in benchmarks)
    found = Overlaps()
    for where, row in read_rows(training):
        found.num_training += 1
        problem = _problem_of(where, row, prompt_field, answer_field)
        for number, kind, shared in index.find(problem.text):
            meets = benchmarks[number]
            verdict = (judged or {}).get((meets.hash, problem.hash), "")
            pair = Pair(meets, problem, kind, shared, verdict)
            found.pairs.append(pair)
            if pair.is_overlap:
                found.lines.add(where)
    return found


def read_judgements(path: Path) -> dict[tuple[str, str], str]:
    """Raises ValueError, with file and line, for a row that is no judgement."""
    found: dict[tuple[str, str], str] = {}
    for where, row in read_rows(path):
        hashes = [get_field(row, "hashes.0"), get_field(row, "hashes.1")]
        verdict = row.get("verdict")
        if not all(isinstance(h, str) for h in hashes) or verdict not in VERDICTS:
            raise ValueError(
                f'{where}: {json.dumps(row)[:120]} is no judgement; it takes {{"hashes": [A, B], "verdict": '
                f"one of {', '.join(VERDICTS)}}}, as `ar3po data check --list` does."
            )
        found[hashes[0], hashes[1]] = verdict
    return found


def write_without(training: Path, lines: Iterable[str], out: Path) -> int:
    """The training file's rows but for those, as they stand; how many are left."""
    dropped, num_left = set(lines), 0
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for where, row in read_rows(training):
                if where not in dropped:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    num_left += 1
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return num_left


def _problem_of(
    where: str, row: Mapping[str, Any], prompt_field: str, answer_field: str
) -> Problem:
    text, answer = get_field(row, prompt_field), get_field(row, answer_field)
    if isinstance(text, list):  # chat messages
        contents = [get_field(m, "content") for m in text if isinstance(m, dict)]
        text = "\n".join(part for part in contents if isinstance(part, str))
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"{where}: no problem in the field {prompt_field!r}, only {sorted(row)}; name it by --prompt-field."
        )
    name = row.get("id")
    return Problem(where, text, str(answer), where if name is None else str(name))
