"""Tokenizer, prompts and verifier: what turns text into tokens and tokens into rewards."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import check_data_path
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.preview import preview_prompts
from megatron_ar3po.data.prompt_source import Part, PromptSource
from megatron_ar3po.data.prompt_table import PromptTable
from megatron_ar3po.data.tokenizer import LateTokenizer, load_tokenizer
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.rewards.verifier import make_verifier
from megatron_ar3po.types import Prompt
from megatron_ar3po.wiring.prompt_reading import Prompts, read_prompts
from megatron_ar3po.wiring.suite_prompts import with_verifiers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PromptsAndVerifier:
    """What the rollout needs."""

    stop_token_ids: tuple[int, ...]
    vocab_size: int
    training: PromptTable
    held_out: Sequence[Prompt]
    sets: list[PromptSet]  # of evaluation.suites
    verifier: Verifier | None  # on leaders: only they sample
    tokenizer: LateTokenizer

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)

    def load_tokenizer(self) -> None:
        """Now, rather than with the first response."""
        assert self.tokenizer.loaded is not None


def load_prompts_and_verifier(
    config: Config, ranks: Ranks, stack: ExitStack, rendered_at: datetime
) -> PromptsAndVerifier:
    """Collective. `rendered_at` is what a chat template takes for now, the same on every rank."""
    started = time.monotonic()
    tokenizer = LateTokenizer(config.model.path)

    def start_verifier() -> Verifier:
        verifier = make_verifier(
            config.rewards, tokenizer, max_response_tokens=config.rollout.max_response_tokens
        )
        stack.callback(verifier.close)
        return verifier

    verifier = ranks.only_on_leader(start_verifier)
    prompts = read_prompts(config, tokenizer, rendered_at, run_on_first=ranks.run_on_first)
    if ranks.is_first:
        logger.info(
            "prompts: %d to train on, %d held out, read in %.1f s",
            len(prompts.training),
            len(prompts.held_out),
            time.monotonic() - started,
        )
        for shown in prompts.shown:
            logger.info("%s: %s", ", ".join(config.data.files), shown)
    return PromptsAndVerifier(
        stop_token_ids=prompts.stop_token_ids,
        vocab_size=prompts.vocab_size,
        training=prompts.training,
        held_out=prompts.held_out,
        sets=with_verifiers(prompts.sets, tokenizer, ranks, stack),
        verifier=verifier,
        tokenizer=tokenizer,
    )


def make_prompt_source(config: Config, prompts: Prompts | PromptsAndVerifier) -> PromptSource:
    """Raises ValueError where no step could be filled."""
    weights = list(config.data.files.values())
    ends = list(itertools.accumulate(prompts.training.num_rows_by_file(len(weights)), initial=0))
    parts = [
        Part(range(start, stop), weight)
        for weight, (start, stop) in zip(weights, itertools.pairwise(ends), strict=True)
    ]
    source = PromptSource(
        prompts.training, seed=config.run.seed, shuffle=config.data.shuffle, parts=parts
    )
    prompts_per_round = config.algorithm.dynamic_sampling and config.algorithm.prompts_per_round
    source.check_batch(prompts_per_round or config.rollout.prompts_per_step)
    return source


def show_prompts(config: Config, rendered_at: datetime, num: int) -> list[str]:
    """The first prompts to train on as the policy will read them. Needs the tokenizer only: no verifier is asked about
    ground truths. Raises ValueError where the file could not be trained on."""
    check_data_path(config)
    tokenizer = load_tokenizer(config.model.path)
    prompts = load_prompts(
        list(config.data.files),
        tokenizer,
        config.data,
        grading=PromptGrading(config.rewards),
        rendered_at=rendered_at,
        vocab_size=read_model_shape(config.model.path).vocab_size,
        checks_answers=False,
    )
    return preview_prompts(prompts, tokenizer, num=num)
