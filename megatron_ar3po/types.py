"""The data carriers: one frozen dataclass per stage of the pipe.

    Prompt -> Response -> ScoredResponse -> ResponseGroup -> TrainingSample -> TrainingBatch

Data goes one way. A value that has no reward yet is a `Response`; once it is graded it is a `ScoredResponse`, so
"not yet filled" is visible in a signature and there is no `None` to remember.

Legend for shapes, used in the whole package:
    P prompts, G responses of a group, L tokens of one response, B rows, S padded length,
    T packed tokens of a micro-batch, N sequences of a micro-batch, V vocabulary, V/tp its local slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from megatron_ar3po.prompt_record import NEVER_SEEN, PromptRecord
from megatron_ar3po.records import Record, Records
from megatron_ar3po.usage import NO_RETRIES, Retries

if TYPE_CHECKING:  # slow to import: a run owns its folder before it is
    import torch
    from torch import Tensor

FinishReason = Literal["stop", "length", "abort"]
Origin = Literal["fresh", "reused", "replayed"]  # replayed: a row of an earlier step
OldLogprobsFrom = Literal["update", "pass", "server"]  # algorithm/old_logprobs.py
VerdictStatus = Literal[
    "correct", "incorrect", "no_answer", "truncated", "too_large", "ungradable", "error"
]


class RowKey(NamedTuple):
    """One row of a step's batch. A response that was lent to two groups has a row in each; a borrowed response may have
    the name of a fresh one of its group, as those of every run are named alike."""

    position: int  # of its group
    response_id: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question. `prompt_id` is its identity for ownership and for the reuse store: a hash of (token ids, ground
    truth, verifier version, chat template, a tolerance of its own), so that a changed verifier or template never meets
    old answers."""

    prompt_id: str
    token_ids: tuple[int, ...]
    ground_truth: str
    text: str = ""
    source: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPrompt:
    """A prompt at its position in one step's global order. The order does not depend on the data-parallel size."""

    position: int
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the server draws tokens. `temperature` also divides the actor's logits, so that both speak of one policy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_response_tokens: int = 16
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One sample asked of a rollout engine. `request_id` is unique in the run and names the request in every log."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the engine answered: token in, token out."""

    token_ids: np.ndarray  # [L] int32, the stop token included
    logprobs: np.ndarray  # [L] float32, of the temperature-scaled policy that sampled them
    finish_reason: FinishReason
    policy_version: int
    server: str
    num_cached_tokens: int = 0
    elapsed_s: float = 0.0
    was_begun: bool = True  # False: aborted in the server's queue, which counts it nowhere
    retries: Retries = NO_RETRIES


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """An answer that exists already, to be weighed by the policy as it is now. No token is sampled."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What the engine makes of it: log-probs of the answer's tokens at temperature 1, whatever the sampling's."""

    logprobs: np.ndarray  # [L] float32
    policy_version: int
    server: str
    num_cached_tokens: int = 0
    elapsed_s: float = 0.0
    retries: Retries = NO_RETRIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One sampled answer with everything that says where it came from."""

    response_id: str
    prompt_id: str
    token_ids: np.ndarray  # [L] int32
    logprobs: np.ndarray  # [L] float32, behaviour log-probs
    finish_reason: FinishReason
    policy_version: int
    step: int
    stage: int  # 1-based
    index: int  # 0-based, within its stage
    seed: int = 0
    server: str = ""
    num_cached_tokens: int = 0
    elapsed_s: float = 0.0
    was_begun: bool = True  # False: cancelled before a server generated anything
    retries: Retries = NO_RETRIES

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """By servers for this response: itself, and the tries that were drawn again."""
        return self.was_begun + self.retries.requests

    @property
    def num_generated_tokens(self) -> int:
        return self.num_tokens + self.retries.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verifier says of one response. `reason` is one readable line. `ungradable`: the response itself exhausts
    the verifier's time or memory, and is incorrect. `error`: the verifier failed and says nothing."""

    reward: float | None  # None where status is 'error'
    status: VerdictStatus
    extracted: str | None = None
    reason: str = ""
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredResponse:
    """A response with its verdict. `is_correct` decides adaptive rollout and reuse; `verdict.reward`, less the KL
    penalty where there is one, feeds the advantage."""

    response: Response
    verdict: Verdict
    origin: Origin = "fresh"
    kl_penalty: float = 0.0  # algorithm.kl_in=reward, known once the actor has seen the response

    @property
    def reward(self) -> float:
        """Only of one that `is_graded`."""
        assert self.verdict.reward is not None, f"{self.response.response_id} has no reward"
        return self.verdict.reward

    @property
    def is_graded(self) -> bool:
        """False where the verifier failed: it may be right or wrong."""
        return self.verdict.status != "error"

    @property
    def is_correct(self) -> bool:
        return self.verdict.status == "correct"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseGroup:
    """All graded responses of one prompt in one step, in the order (stage, index). Groups have unequal sizes, and one
    whose verifier failed for every response has none."""

    position: int
    prompt: Prompt
    responses: tuple[ScoredResponse, ...]
    stop_reason: str = ""  # why no more were sampled: solved, stages_done, token_cap
    left_out: tuple[ScoredResponse, ...] = ()  # sampled, no members: cut off, ungraded, replaced
    record: PromptRecord = NEVER_SEEN  # of the prompt, before this step

    @property
    def sampled(self) -> tuple[ScoredResponse, ...]:  # in this step, whatever became of it
        return (*(r for r in self.responses if r.origin == "fresh"), *self.left_out)

    @property
    def is_solved(self) -> bool:
        return any(r.is_correct for r in self.responses)

    @property
    def num_borrowed(self) -> int:
        return sum(r.origin == "reused" for r in self.responses)

    @property
    def errored(self) -> tuple[ScoredResponse, ...]:
        """Those left out because the verifier failed: cost, and nothing else."""
        return tuple(r for r in self.left_out if not r.is_graded)

    @property
    def num_stages(self) -> int:
        """Stages this prompt went through in this step."""
        return max((r.response.stage for r in self.sampled), default=0)

    @property
    def rewards(self) -> np.ndarray:
        """[G] float64, as graded"""
        return np.array([r.reward for r in self.responses], dtype=np.float64)

    @property
    def penalised_rewards(self) -> np.ndarray:
        """[G] float64, less the KL penalty: what advantages are made of"""
        return self.rewards - np.array([r.kl_penalty for r in self.responses], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedStep:
    """What sampling one step came to, on one replica. `discarded` (dynamic sampling) train nothing and are cost."""

    groups: tuple[ResponseGroup, ...]  # by position
    discarded: tuple[ResponseGroup, ...] = ()
    restored: frozenset[str] = frozenset()  # response ids that this process did not draw
    records: Mapping[str, Record] = field(default_factory=Records)

    @property
    def graded(self) -> tuple[ResponseGroup, ...]:
        """All that was sampled and graded, whether it trains or not."""
        return (*self.groups, *self.discarded)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """One sequence that carries gradient. A detached (Option II) response never becomes one: it has done its work in
    the advantages of its siblings and counts nowhere else."""

    group_position: int
    prompt_id: str
    response_id: str
    prompt_token_ids: tuple[int, ...]
    response_token_ids: np.ndarray  # [L] int32
    behaviour_logprobs: np.ndarray  # [L] float32, as the server reported them when it sampled
    advantage: float
    reward: float
    origin: Origin
    policy_version: int
    uses_behaviour_logprobs: bool = False  # its ratio is measured against behaviour_logprobs

    @property
    def row_key(self) -> RowKey:
        return RowKey(self.group_position, self.response_id, self.origin)

    @property
    def num_response_tokens(self) -> int:
        return len(self.response_token_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.response_token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One forward: N whole sequences packed end to end into T tokens. [T]: entry t speaks of token t + 1 of its
    sequence. Off the response (prompt, last position, dummy row) loss_mask, weights, advantages and log-probs are 0."""

    token_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, from 0 within each sequence
    cu_seqlens: Tensor  # [N + 1] int32, starts of the sequences, then T
    sequence_ids: Tensor  # [T] int64, 0..N-1
    target_ids: Tensor  # [T] int64, the next token of the same sequence; 0 off the response
    loss_mask: Tensor  # [T] float32, 1 where token t + 1 belongs to the response
    advantages: Tensor  # [T] float32
    weights: Tensor  # [T] float32, share in the loss of one optimizer step, all ranks and micro-batches together
    behaviour_logprobs: Tensor  # [T] float32
    is_reused: Tensor  # [T] bool, of a response that the step did not sample: borrowed or replayed
    uses_behaviour_logprobs: Tensor  # [T] bool, the ratio is measured against behaviour_logprobs
    old_logprobs_from: OldLogprobsFrom = "pass"
    old_logprobs: Tensor | None = None  # [T] float32, the actor's at the start; None before a pass
    reference_logprobs: Tensor | None = None  # [T] float32; None without a reference policy
    row_keys: tuple[RowKey, ...] = ()  # which response each sequence is; dummy rows have none
    is_replayed: Tensor | None = None  # [T] bool, of a replayed row; None where there is none

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.numel())

    @property
    def num_sequences(self) -> int:
        return int(self.cu_seqlens.numel()) - 1

    def to(self, device: torch.device | str) -> MicroBatch:
        from torch import Tensor

        moved = {
            name: value.to(device, non_blocking=True)
            for name in self.__dataclass_fields__
            if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniBatch:
    """One optimizer step of this data-parallel rank. Every rank holds the same number of micro-batches; short ones are
    filled up with a dummy row. `num_units` is the denominator the weights were made with, summed over DP."""

    micro_batches: tuple[MicroBatch, ...]
    num_units: float
    num_sequences: int  # over all DP ranks, that carry gradient
    samples: tuple[TrainingSample, ...] = ()  # of all DP ranks; see `MicroBatch.row_keys`

    @property
    def old_logprobs_from(self) -> OldLogprobsFrom:  # the same for all of its micro-batches
        return self.micro_batches[0].old_logprobs_from


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """One training step of this data-parallel rank: its mini-batches in order. Empty when no group carries signal."""

    mini_batches: tuple[MiniBatch, ...]
    num_samples: int  # over all DP ranks
    num_tokens: int  # over all DP ranks, prompts included

    @property
    def is_empty(self) -> bool:
        return not self.mini_batches

    @property
    def micro_batches(self) -> tuple[MicroBatch, ...]:
        return tuple(mb for mini in self.mini_batches for mb in mini.micro_batches)

    @property
    def needs_pass(self) -> tuple[MicroBatch, ...]:
        """Those whose old log-probs come from a forward pass before the first update."""
        return tuple(mb for mb in self.micro_batches if mb.old_logprobs_from == "pass")

    def with_old_logprobs(self, old_logprobs: Sequence[Tensor | None]) -> TrainingBatch:
        """The same batch with `old_logprobs` filled in: one [T] tensor (None on ranks without the last pipeline stage)
        for each micro-batch of `needs_pass`, in order."""
        remaining = iter(old_logprobs)

        def fill(mb: MicroBatch) -> MicroBatch:
            if mb.old_logprobs_from != "pass":
                return mb
            computed = next(remaining)
            if computed is not None:
                computed = computed.to(mb.weights.device)
            return replace(mb, old_logprobs=computed)

        return self._with_each(fill)

    def with_reference_logprobs(self, logprobs: Sequence[Tensor | None]) -> TrainingBatch:
        """The same with `reference_logprobs`."""
        remaining = iter(logprobs)
        return self._with_each(lambda mb: replace(mb, reference_logprobs=next(remaining)))

    def with_advantages(self, advantages: Mapping[RowKey, float]) -> TrainingBatch:
        """The same batch with these advantages on the tokens of each response; one that is not named gets 0."""

        def replace_advantages(mb: MicroBatch) -> MicroBatch:
            of_row = [advantages.get(key, 0.0) for key in mb.row_keys]
            of_row += [0.0] * (mb.num_sequences - len(of_row))
            return replace(
                mb, advantages=mb.loss_mask.new_tensor(of_row)[mb.sequence_ids] * mb.loss_mask
            )

        return self._with_each(replace_advantages)

    def _with_each(self, change: Callable[[MicroBatch], MicroBatch]) -> TrainingBatch:
        minis = (
            replace(mini, micro_batches=tuple(change(mb) for mb in mini.micro_batches))
            for mini in self.mini_batches
        )
        return replace(self, mini_batches=tuple(minis))
