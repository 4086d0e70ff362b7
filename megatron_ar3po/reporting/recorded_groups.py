"""RUN/rollouts.jsonl for a page: some of its groups, spread evenly over the run and bounded in bytes, and what all of
them say about verdicts and lengths."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ar3po.observability.row_file import iter_rows, load_quickly

MAX_CHARACTERS = 20_000  # of a response that is shown; longer ones are cut, and say so
_MAX_PROMPT, _MAX_REASON, _MAX_NAME = 8_000, 500, 200
_MAX_TEXTS = 200_000  # whose verdicts are held against each other


@dataclass
class RecordedGroups:
    """`groups` are rows for the page: short names, as there are thousands."""

    max_bytes: int = 5_000_000
    groups: list[dict[str, Any]] = field(default_factory=list)
    num_groups: int = 0  # recorded in all
    statuses: Counter[str] = field(default_factory=Counter)
    lengths: dict[bool, Counter[int]] = field(  # tokens, of correct responses and of others
        default_factory=lambda: {True: Counter(), False: Counter()}
    )
    two_verdicts: int = 0  # texts of one prompt that were called right and wrong
    empty_and_right: int = 0
    wrong_though_equal: int = 0  # the whole text is the ground truth
    prompts: dict[str, str] = field(default_factory=dict)  # by id, those recorded
    _verdicts: dict[tuple[str, int], int] = field(default_factory=dict)
    _every: int = 1
    _num_bytes: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises KeyError or TypeError for a row of another make."""
        for response in row["responses"]:
            self._look_at(row, response)
        if len(self.prompts) < _MAX_TEXTS:
            self.prompts.setdefault(str(row.get("prompt_id", "")), str(row["prompt"])[:_MAX_NAME])
        if self.num_groups % self._every == 0:
            shown = _group_for_page(row)
            self.groups.append(shown)
            self._num_bytes += _size_of(shown)
            self._thin_out()
        self.num_groups += 1

    def _look_at(self, row: Mapping[str, Any], response: Mapping[str, Any]) -> None:
        status, text = str(response["status"]), str(response["text"])
        is_right = status == "correct"
        self.statuses[status] += 1
        self.lengths[is_right][int(response["tokens"])] += 1
        self.empty_and_right += is_right and not text.strip()
        self.wrong_though_equal += status == "incorrect" and text.strip() == row["ground_truth"]
        if status not in ("correct", "incorrect") or len(self._verdicts) >= _MAX_TEXTS:
            return
        key = str(row.get("prompt_id", "")), hash(text)
        seen = self._verdicts.get(key, 0)
        self._verdicts[key] = seen | (1 << is_right)
        self.two_verdicts += seen in (1, 2) and self._verdicts[key] == 3

    def _thin_out(self) -> None:
        """Every second group goes, as often as it takes: those that stay are spread evenly over the run."""
        while self._num_bytes > self.max_bytes and len(self.groups) > 1:
            self._every *= 2
            self.groups = self.groups[::2]
            self._num_bytes = sum(map(_size_of, self.groups))


def read_groups(path: Path, on_damage: Callable[[str], None]) -> RecordedGroups:
    recorded = RecordedGroups()
    for row in iter_rows(path, on_damage, load_quickly) if path.is_file() else ():
        try:
            recorded.add(row)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            on_damage(f"{path.name} has a row of another make ({type(error).__name__}: {error})")
    return recorded


def _group_for_page(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": int(row["step"]),
        "prompt": str(row["prompt"])[:_MAX_PROMPT],
        "truth": str(row["ground_truth"])[:_MAX_REASON],
        "source": str(row.get("source", ""))[:_MAX_NAME],
        "id": str(row.get("prompt_id", ""))[:_MAX_NAME],
        "responses": [_response_for_page(response) for response in row["responses"]],
    }


def _response_for_page(response: Mapping[str, Any]) -> dict[str, Any]:
    text = str(response["text"])
    lengths = [int(n) for n in response.get("token_lengths") or ()]
    logprobs = [_number(p, 2) for p in response.get("logprobs") or ()]
    return {
        "text": text[:MAX_CHARACTERS],
        "cut": max(0, len(text) - MAX_CHARACTERS),
        "status": str(response["status"]),
        "reason": str(response.get("reason", ""))[:_MAX_REASON],
        "reward": _number(response.get("reward")),
        "origin": str(response.get("origin", "fresh")),
        "stage": response.get("stage"),
        "tokens": int(response["tokens"]),
        "version": response.get("policy_version"),
        "advantage": _number(response.get("advantage")),
        "logprobs": logprobs,
        "lengths": lengths[: len(logprobs)],
    }


def _number(value: Any, digits: int = 6) -> float | None:
    """None for what a page's JSON has no word for.

    >>> _number(0.123, 2), _number(float("nan")), _number(None)
    (0.12, None, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)


def _length_of(text: str) -> int:
    """A letter beyond ASCII takes six or twelve.

    >>> _length_of("ab"), _length_of("和")
    (2, 6)
    """
    return len(text) if text.isascii() else len(json.dumps(text)) - 2


def _size_of(group: Mapping[str, Any]) -> int:
    """About what it takes as JSON."""
    texts = _length_of(group["prompt"])
    texts += sum(_length_of(r["text"]) + 250 for r in group["responses"])
    return texts + sum(9 * len(r["logprobs"]) for r in group["responses"])
