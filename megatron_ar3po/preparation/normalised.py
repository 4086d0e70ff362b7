"""Rows of a data set as its publisher writes them -> rows of one form, each problem once.

    {"prompt", "answer", "source", "id", "origin", "hash", ...}

`source` is the set's name, `id` that of the row within all sets, `origin` the file and line that it came from, `hash` a
checksum of what is asked and what is right. Kept fields follow.

Promises: the same files give the same rows in the same order; every row that is not there is in `left_out` by its
reason, and those with a defect by file and line.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_ar3po.data.row_files import get_field, show
from megatron_ar3po.interfaces import GradingRules
from megatron_ar3po.preparation.catalogue import DataSet
from megatron_ar3po.preparation.upstream_rows import LeftOutError, write_answer
from megatron_ar3po.types import Prompt

MAX_PROMPT_CHARACTERS = 1_000_000  # a longer one is a file that went wrong

NormalisedRow = dict[str, Any]


@dataclass(slots=True)
class Normalised:
    rows: list[NormalisedRow] = field(default_factory=list[NormalisedRow])
    num_read: int = 0
    left_out: Counter[str] = field(default_factory=Counter[str])  # by the reason
    broken: list[str] = field(default_factory=list[str])  # what cannot be read, by file and line
    defects: list[str] = field(default_factory=list[str])  # what can, and is of no use


def hash_row(prompt: str, answer: str) -> str:
    content = json.dumps([prompt, answer], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def normalise(
    data_set: DataSet, rows: Iterable[tuple[str, Mapping[str, Any]]], grading: GradingRules
) -> Normalised:
    """`rows`: each with the origin that it is to name. Broken rows are listed; it is for the caller to refuse them."""
    found = Normalised()
    taken: dict[str, str] = {}  # origin by id
    first: dict[str, NormalisedRow] = {}  # by the problem, in one spelling of white space
    again: list[tuple[NormalisedRow, NormalisedRow]] = []
    for origin, upstream in rows:
        found.num_read += 1
        try:
            row = _normalise_row(data_set, upstream, origin, found.num_read)
        except LeftOutError as reason:
            found.left_out[str(reason)] += 1
            continue
        except ValueError as error:
            found.broken.append(f"{origin}: {error}")
            continue
        problem = " ".join(row["prompt"].split())
        if (known := first.get(problem)) is not None:
            if known["answer"] != row["answer"]:
                again.append((known, row))
            found.left_out["duplicate"] += 1
        elif row["id"] in taken:
            found.broken.append(f"{origin}: its id {row['id']!r} is that of {taken[row['id']]}")
        else:
            taken[row["id"]], first[problem] = origin, row
            found.rows.append(row)
    _drop_contradictions(found, again, grading)
    _drop_unusable(found, grading)
    return found


def _normalise_row(
    data_set: DataSet, upstream: Mapping[str, Any], origin: str, number: int
) -> NormalisedRow:
    if reason := data_set.is_wanted(upstream):
        raise LeftOutError(reason)
    prompt = data_set.read_prompt(_first_of(upstream, data_set.prompt, "prompt"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the prompt is {show(prompt)}; it must be text that is not empty")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt)} characters: {show(prompt)}")
    prompt = prompt.strip()
    answer = write_answer(data_set.read_answer(_first_of(upstream, data_set.answer, "answer")))
    for name, text in (("prompt", prompt), ("answer", answer)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the {name} is no valid Unicode text ({error.reason})") from error
    upstream_id = next(
        (v for f in data_set.ids if (v := get_field(upstream, f)) is not None), number
    )
    kept = {
        name: value for name in data_set.keep if (value := get_field(upstream, name)) is not None
    }
    return {
        "prompt": prompt,
        "answer": answer,
        "source": data_set.name,
        "id": f"{data_set.name}/{upstream_id}",
        "origin": origin,
        "hash": hash_row(prompt, answer),
        **{name: value for name, value in kept.items() if value != ""},
    }


def _first_of(row: Mapping[str, Any], fields: tuple[str, ...], what: str) -> Any:
    for name in fields:
        if (value := get_field(row, name)) is not None:
            return value
    raise ValueError(f"no {what}: none of the fields {', '.join(fields)}, only {sorted(row)}")


def _drop_contradictions(
    found: Normalised, again: list[tuple[NormalisedRow, NormalisedRow]], grading: GradingRules
) -> None:
    """A problem with two answers that the verifier calls different teaches the wrong one half of the time: neither is
    kept."""
    pairs = [(_as_prompt(known), _as_prompt(row)) for known, row in again]
    dropped: set[str] = set()
    for (known, row), reason in zip(
        again, grading.why_different(pairs) if pairs else [], strict=True
    ):
        if reason is not None:
            dropped.add(known["id"])
            found.defects.append(
                f"{row['origin']}: the problem is that of {known['origin']}, but its answer is {row['answer'][:80]!r} "
                f"and not {known['answer'][:80]!r}"
            )
    found.left_out["contradictory answers"] += len(dropped)
    found.rows = [row for row in found.rows if row["id"] not in dropped]


def _drop_unusable(found: Normalised, grading: GradingRules) -> None:
    reasons = grading.why_unusable([_as_prompt(row) for row in found.rows])
    unusable = [(row, reason) for row, reason in zip(found.rows, reasons, strict=True) if reason]
    found.defects += [f"{r['origin']}: {r['answer'][:80]!r}: {reason}" for r, reason in unusable]
    found.left_out["unusable answer"] += len(unusable)
    dropped = {row["id"] for row, _ in unusable}
    found.rows = [row for row in found.rows if row["id"] not in dropped]
    found.left_out = Counter({reason: count for reason, count in found.left_out.items() if count})


def _as_prompt(row: NormalisedRow) -> Prompt:
    return Prompt(
        prompt_id=row["id"],
        token_ids=(),
        ground_truth=row["answer"],
        text=row["prompt"],
        source=row["source"],
        metadata=row,
    )
