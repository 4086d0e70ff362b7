"""The same figures for each source of prompts by itself: what a mixture of data sets, or of verifiers, comes to.

    source/NAME/responses, reward_mean, correct_frac       of a step's responses, discarded ones included
    eval/source/NAME/prompts, pass_at_1, pass_at_n         of an evaluation with n samples a prompt

A file without any source has none of them, and neither has one with more than 32: they would bury the others.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from statistics import mean
from typing import Any, TypeVar

from megatron_ar3po.observability.accuracy import Mark, accuracy_of_marks, pass_at_k_of_prompts
from megatron_ar3po.records import Mean, Records, Sum
from megatron_ar3po.types import Prompt, ResponseGroup, ScoredResponse

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_MAX_SOURCES = 32


def metric_sources(of_prompts: Iterable[str]) -> frozenset[str]:
    """Those that have metrics of their own."""
    sources = frozenset(of_prompts)
    if len(sources) > _MAX_SOURCES:
        logger.warning(
            "the prompts have %d sources: more than %d have no metrics of their own",
            len(sources),
            _MAX_SOURCES,
        )
        return frozenset()
    return sources if sources - {""} else frozenset()


def source_records(groups: Sequence[ResponseGroup], sources: Collection[str]) -> Records:
    """Of fresh groups. Means of rewards are those of graded responses."""
    records = Records()
    for group in groups:
        if group.prompt.source not in sources:
            continue
        name = f"source/{metric_name(group.prompt.source)}"
        scored = [*group.responses, *group.errored]
        records.add(f"{name}/responses", Sum(len(scored)))
        for response in scored:
            if response.is_graded:
                records.add(f"{name}/reward_mean", Mean(response.reward))
                records.add(f"{name}/correct_frac", Mean(float(response.is_correct)))
    return records


def evaluation_source_records(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[ScoredResponse]],
    sources: Collection[str],
) -> Records:
    """`answers`: [P] prompts of n samples each, those of `prompts`."""
    records = Records()
    for source, mine in split_by_source(prompts, answers).items():
        if source not in sources:
            continue
        name = f"eval/source/{metric_name(source)}"
        records.add(f"{name}/prompts", Sum(len(mine)))
        for k in {1, len(mine[0])}:
            if chances := pass_at_k_of_prompts(mine, k):
                records.add(f"{name}/pass_at_{k}", Mean(mean(chances), len(chances)))
    return records


def accuracy_by_source(
    prompts: Sequence[Prompt], marks: Sequence[Sequence[Mark]]
) -> dict[str, dict[str, Any]]:
    """For a result: prompts, and pass@1 with its standard error (None where the verifier failed for every sample)."""
    found: dict[str, dict[str, Any]] = {}
    for source, mine in split_by_source(prompts, marks).items():
        is_graded = any(m.is_correct is not None for of_prompt in mine for m in of_prompt)
        figures = accuracy_of_marks(mine) if is_graded else None
        found[source] = {
            "prompts": len(mine),
            "pass_at_1": figures.pass_at_1 if figures else None,
            "pass_at_1_stderr": figures.pass_at_1_stderr if figures else None,
        }
    return found


def split_by_source(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]
) -> dict[str, list[Sequence[Answer]]]:
    """The answers to each source's prompts, sources in the order of their names."""
    split: dict[str, list[Sequence[Answer]]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        split.setdefault(prompt.source, []).append(answer)
    return dict(sorted(split.items()))


def metric_name(source: str) -> str:
    """
    >>> metric_name("gsm8k"), metric_name("my set/v 2"), metric_name("")
    ('gsm8k', 'my_set_v_2', 'unnamed')
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", source) or "unnamed"
