"""What a run would train on, to be looked at before it: prompts as the policy reads them, lengths, sources, and what
the filters leave out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import check_data_path
from megatron_ar3po.data.dataset import build_prompts
from megatron_ar3po.data.preview import preview_prompts
from megatron_ar3po.data.tokenizer import load_tokenizer
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.rewards.prompt_grading import PromptGrading


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPreview:
    shown: list[str]
    lengths: np.ndarray[Any, Any]  # tokens of each prompt that is left
    sources: dict[str, int]  # prompts of each
    files: dict[str, int]  # and of each file
    left_out: list[str]  # what the filters take away, each of several lines


def preview_data(
    config: Config, rendered_at: datetime, *, num_shown: int, checks_answers: bool
) -> DataPreview:
    """Nothing is refused that could be left out: `left_out` says what it would be. Raises ValueError where nothing is
    left, and for what no option lets pass."""
    check_data_path(config)
    tokenizer = load_tokenizer(config.model.path)
    lenient = replace(
        config.data, overlong_prompts="skip", unusable_answers="skip", broken_rows="skip"
    )
    files = list(config.data.files)
    table, said = build_prompts(
        files,
        tokenizer,
        lenient,
        grading=PromptGrading(config.rewards),
        rendered_at=rendered_at,
        vocab_size=read_model_shape(config.model.path).vocab_size,
        checks_answers=checks_answers,
    )
    return DataPreview(
        shown=preview_prompts(table, tokenizer, num=num_shown),
        lengths=table.lengths,
        sources=dict(sorted(Counter(prompt.source for prompt in table).items())),
        files=dict(zip(files, table.num_rows_by_file(len(files)), strict=True)),
        left_out=said,
    )
