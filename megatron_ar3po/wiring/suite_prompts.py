"""The sets of a suite, ready to be sampled: their prompts read, and a verifier for each way of grading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.suite import SuiteSet
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.tokenizer import LateTokenizer, stop_token_ids
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.rewards.verifier import make_verifier
from megatron_ar3po.types import SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSet:
    """A set of which everything is known but who grades it."""

    asked: PromptSet
    rewards: RewardsConfig


def read_sets(
    sets: Sequence[SuiteSet],
    tokenizer: PreTrainedTokenizerBase,
    rendered_at: datetime,
    run_on_first: Callable[[Callable[[], Any]], Any] = lambda task: task(),
) -> list[ReadSet]:
    """Raises ValueError, with the set, for prompts that cannot be evaluated on."""
    return [_read_set(found, tokenizer, rendered_at, run_on_first) for found in sets]


def _read_set(
    found: SuiteSet,
    tokenizer: PreTrainedTokenizerBase,
    rendered_at: datetime,
    run_on_first: Callable[[Callable[[], Any]], Any],
) -> ReadSet:
    config, folder = found.config, found.config.model.path
    prompts = load_prompts(
        config.data.path,
        tokenizer,
        config.data,
        grading=PromptGrading(config.rewards, run=run_on_first),
        rendered_at=rendered_at,
        vocab_size=read_model_shape(folder).vocab_size,
    )
    stops = stop_token_ids(folder, tokenizer, config.rollout.extra_stop_token_ids)
    asked = PromptSet(
        name=found.name,
        prompts=list(prompts[: config.evaluation.max_prompts or None]),
        samples=config.evaluation.samples_per_prompt,
        sampling=sampling_of(config, stops),
    )
    return ReadSet(asked=asked, rewards=config.rewards)


def sampling_of(config: Config, stops: tuple[int, ...]) -> SamplingParams:
    """Of an evaluation."""
    return SamplingParams(
        temperature=config.evaluation.temperature,
        top_p=config.evaluation.top_p,
        max_response_tokens=config.rollout.max_response_tokens,
        stop_token_ids=stops,
    )


def with_verifiers(
    sets: Sequence[ReadSet], tokenizer: LateTokenizer, ranks: Ranks, stack: ExitStack
) -> list[PromptSet]:
    """Collective. Sets that are graded alike share a verifier, on leaders."""
    made: list[tuple[RewardsConfig, int, Verifier | None]] = []

    def find_verifier(found: ReadSet) -> Verifier | None:
        longest = found.asked.sampling.max_response_tokens
        for rewards, length, verifier in made:
            if rewards == found.rewards and length == longest:
                return verifier

        def start() -> Verifier:
            started = make_verifier(found.rewards, tokenizer, max_response_tokens=longest)
            stack.callback(started.close)
            return started

        verifier = ranks.only_on_leader(start)
        made.append((found.rewards, longest, verifier))
        return verifier

    return [replace(found.asked, verifier=find_verifier(found)) for found in sets]
