"""Tokenizer, prompts and verifier: what turns text into tokens and tokens into rewards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import check_data_path
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.preview import preview_prompts
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.data.tokenizer import load_tokenizer, stop_token_ids
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.rewards.verifier import make_verifier
from megatron_ar3po.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """With what is known of tokens beside."""

    stop_token_ids: tuple[int, ...]
    vocab_size: int
    training: list[Prompt]
    held_out: list[Prompt]


@dataclass(frozen=True, kw_only=True)
class PromptsAndVerifier(Prompts):
    """What the rollout needs."""

    verifier: Verifier | None  # on leaders: only they sample
    decode: Callable[[Sequence[int]], str]


def load_prompts_and_verifier(
    config: Config, ranks: Ranks, stack: ExitStack, rendered_at: datetime
) -> PromptsAndVerifier:
    """Collective. `rendered_at` is what a chat template takes for now, the same on every rank."""
    tokenizer = load_tokenizer(config.model.path)

    def start_verifier() -> Verifier:
        verifier = make_verifier(
            config.rewards,
            cast("Any", tokenizer),
            max_response_tokens=config.rollout.max_response_tokens,
        )
        stack.callback(verifier.close)
        return verifier

    verifier = ranks.only_on_leader(start_verifier)
    prompts = read_prompts(config, tokenizer, rendered_at, run_on_first=ranks.run_on_first)
    if ranks.is_first:
        for shown in preview_prompts(prompts.training, tokenizer):
            logger.info("%s: %s", config.data.path, shown)
    return PromptsAndVerifier(
        stop_token_ids=prompts.stop_token_ids,
        vocab_size=prompts.vocab_size,
        training=prompts.training,
        held_out=prompts.held_out,
        verifier=verifier,
        decode=lambda token_ids: str(tokenizer.decode(list(token_ids))),
    )


def read_prompts(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    rendered_at: datetime,
    *,
    run_on_first: Callable[[Callable[[], Any]], Any] = lambda task: task(),
) -> Prompts:
    """Collective with the `run_on_first` of several ranks. Raises ValueError for prompts that no run could train on."""
    vocab_size = read_model_shape(config.model.path).vocab_size
    grading = PromptGrading(config.rewards, run=run_on_first)

    def read(path: str) -> list[Prompt]:
        return load_prompts(
            path,
            tokenizer,
            config.data,
            grading=grading,
            rendered_at=rendered_at,
            vocab_size=vocab_size,
        )

    stops = stop_token_ids(config.model.path, tokenizer, config.rollout.extra_stop_token_ids)
    training = read(config.data.path)
    held_out = read(config.evaluation.path) if config.evaluation.path else []
    return Prompts(
        stop_token_ids=stops, vocab_size=vocab_size, training=training, held_out=held_out
    )


def make_prompt_source(config: Config, prompts: Prompts) -> PromptSource:
    """Raises ValueError where no step could be filled."""
    source = PromptSource(prompts.training, seed=config.run.seed, shuffle=config.data.shuffle)
    prompts_per_round = config.algorithm.dynamic_sampling and config.algorithm.prompts_per_round
    source.check_batch(prompts_per_round or config.rollout.prompts_per_step)
    return source


def show_prompts(config: Config, rendered_at: datetime, num: int) -> list[str]:
    """The first prompts of data.path as the policy will read them. Needs the tokenizer only: no verifier is asked about
    ground truths. Raises ValueError where the file could not be trained on."""
    check_data_path(config)
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_prompts(
        config.data.path,
        tokenizer,
        config.data,
        grading=PromptGrading(config.rewards),
        rendered_at=rendered_at,
        vocab_size=read_model_shape(config.model.path).vocab_size,
        checks_answers=False,
    )
    return preview_prompts(prompts, tokenizer, num=num)
