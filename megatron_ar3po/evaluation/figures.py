"""What the answers to a set come to: accuracy with its interval, length, truncation, by source; and the difference of
two policies, paired by prompt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from megatron_ar3po.comparison.statistics import Interval, paired_difference, t_interval
from megatron_ar3po.config.schema import Config
from megatron_ar3po.evaluation.items import Item
from megatron_ar3po.observability.accuracy import (
    accuracy_of_marks,
    chances_of_prompts,
    maj_at_k_of_marks,
    pass_at_k_of_marks,
)
from megatron_ar3po.observability.source_metrics import accuracy_by_source
from megatron_ar3po.types import Prompt


@dataclass(frozen=True, kw_only=True)
class SetAnswers:
    """Of one policy to one set."""

    name: str
    config: Config  # of the set
    prompts: Sequence[Prompt]
    items: Sequence[Sequence[Item]]  # of each prompt
    reused: int  # of the items: kept from an evaluation before


def figures_of(answers: SetAnswers) -> dict[str, Any]:
    """For a result. Raises ValueError where the verifier failed for all of them."""
    items = [item for of_prompt in answers.items for item in of_prompt]
    marks = [[item.mark for item in of_prompt] for of_prompt in answers.items]
    found = asdict(accuracy_of_marks(marks))
    rates = t_interval(chances_of_prompts(marks, 1, pass_at_k_of_marks))
    tokens = sum(item.tokens for item in items)
    config = answers.config
    return {
        "data": config.data.path,
        **found,
        "pass_at_1_interval": ends_of(rates),
        "temperature": config.evaluation.temperature,
        "top_p": config.evaluation.top_p,
        "max_response_tokens": config.rollout.max_response_tokens,
        "tokens": tokens,
        "length_tokens": tokens / len(items),
        "truncated_frac": sum(item.finish_reason == "length" for item in items) / len(items),
        "by_source": accuracy_by_source(answers.prompts, marks),
        "verdicts": dict(Counter(item.status for item in items)),
        "generated": len(items) - answers.reused,
        "reused": answers.reused,
    }


def difference_of(one: SetAnswers, other: SetAnswers) -> dict[str, Any]:
    """one - other, paired by prompt, of those that both have: what both owe to a prompt cancels. Raises ValueError
    where they have none in common."""
    there = dict(zip(rows_of(other.prompts), other.items, strict=True))
    pairs = [
        ([item.mark for item in mine], [item.mark for item in there[row]])
        for row, mine in zip(rows_of(one.prompts), one.items, strict=True)
        if row in there
    ]
    if not pairs:
        raise ValueError(
            f"set {one.name}: the two have no prompt in common, so there is nothing to compare by pairs. Give each row "
            "of the file an id of its own (a field `id`), which does not hang on tokenizer and template."
        )
    n = min(len(marks) for pair in pairs for marks in pair)
    found: dict[str, Any] = {"prompts": len(pairs)}
    measures = {
        "pass_at_1": (1, pass_at_k_of_marks),
        f"pass_at_{n}": (n, pass_at_k_of_marks),
        f"maj_at_{n}": (n, maj_at_k_of_marks),
    }
    for name, (k, chance) in measures.items():
        both = [
            (a[0], b[0])
            for mine, theirs in pairs
            if (a := chances_of_prompts([mine], k, chance))
            and (b := chances_of_prompts([theirs], k, chance))
        ]
        interval = paired_difference([a for a, _ in both], [b for _, b in both])
        if interval is not None:
            found[name] = {"difference": interval.mean, "interval": ends_of(interval)}
    return found


def rows_of(prompts: Sequence[Prompt]) -> list[str]:
    """What a prompt is called whatever tokenizer and template it was read by: its row's id, or a hash of what it asks
    and what is right where that is missing or not its own."""
    ids = Counter(str(prompt.metadata.get("id", "")) for prompt in prompts)
    return [
        row_id
        if (row_id := str(prompt.metadata.get("id", ""))) not in ("", "None") and ids[row_id] == 1
        else xxhash.xxh3_128_hexdigest(json.dumps([prompt.text, prompt.ground_truth]).encode())
        for prompt in prompts
    ]


def ends_of(interval: Interval | None) -> list[float] | None:
    """Of 95%; None where one prompt says nothing of their spread."""
    if interval is None or interval.low is None or interval.high is None:
        return None
    return [interval.low, interval.high]
