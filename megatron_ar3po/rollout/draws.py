"""`Draw`: one response to be sampled, and what it takes to wait for many or to cancel the siblings of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.records import Mean, Records, Sum
from megatron_ar3po.types import Prompt, SamplingParams, ScoredResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One response to be sampled: which one it is and what it is asked with."""

    response_id: str
    prompt: Prompt
    step: int
    stage: int
    index: int
    seed: int
    sampling: SamplingParams
    policy_version: int
    rank: tuple[float, ...]  # in the queue for a slot; the smallest goes first
    verifier: Verifier | None = None  # None: the run's own


def evaluation_draws(
    sets: Sequence[PromptSet], *, run_seed: int, seed_key: str, policy_version: int
) -> Iterator[Draw]:
    """Of each set in turn, prompt by prompt. A seed depends on run, `seed_key`, prompt and sample alone, so two
    evaluations with one key draw the same noise, on any layout and in any suite."""
    for order, asked in enumerate(sets):
        key = f"{seed_key}.{asked.name}" if asked.name else seed_key
        for number, prompt in enumerate(asked.prompts):
            for index in range(asked.samples):
                yield Draw(
                    response_id=f"{key}.v{policy_version}.{number}.{index}",
                    prompt=prompt,
                    step=0,
                    stage=1,
                    index=index,
                    seed=response_seed(run_seed, seed_key, prompt.prompt_id, index),
                    sampling=asked.sampling,
                    policy_version=policy_version,
                    rank=(0, order, number),
                    verifier=asked.verifier,
                )


@dataclass(slots=True)
class Cancellation:
    """Shared by the draws of one stage (`rollout.cancel_solved`): once set, what waits is not sent and what the server
    aborts is not drawn again."""

    is_set: bool = False
    in_flight: dict[str, str] = field(default_factory=dict)  # response id -> request id


@dataclass(slots=True)
class CancelStats:
    """What early cancel did in one step. A cancelled answer's length is what it had when it was cut off, so the true
    bias towards short answers is at least what these figures show."""

    winners: int = 0  # first correct answers of stages that had others still running
    winner_tokens: int = 0
    unsent: int = 0  # siblings that had not begun
    cancelled: int = 0
    cancelled_tokens: int = 0
    longer_than_winner: int = 0  # of the cancelled: already longer than the answer that ended them

    def add_cancelled(self, cut_off: list[ScoredResponse], *, winner_tokens: int) -> None:
        lengths = [scored.response.num_tokens for scored in cut_off]
        self.cancelled += len(lengths)
        self.cancelled_tokens += sum(lengths)
        self.longer_than_winner += sum(length > winner_tokens for length in lengths)

    @property
    def records(self) -> Records:
        records = Records(
            {
                "rollout/cancel/responses": Sum(self.cancelled),
                "rollout/cancel/tokens": Sum(self.cancelled_tokens),
                "rollout/cancel/unsent_responses": Sum(self.unsent),
            }
        )
        for name, total, count in (
            ("winner_length_tokens", self.winner_tokens, self.winners),
            ("cancelled_length_tokens", self.cancelled_tokens, self.cancelled),
            ("longer_than_winner_frac", self.longer_than_winner, self.cancelled),
        ):
            if count:
                records.add(f"rollout/cancel/{name}", Mean(total / count, count))
        return records


def response_seed(*parts: object) -> int:
    """31 bits that depend on the parts alone: the same in every process and on every layout.

    >>> response_seed(0, "eval", "ab", 3) == response_seed(0, "eval", "ab", 3)
    True
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF
