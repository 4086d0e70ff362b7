"""Which stored responses stay and which one is lent: pure functions, whose only chance is a hash of the run's seed.

So there is no random state to save, no order of arrival that matters, and a resumed run chooses the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from megatron_ar3po.config.schema import ReuseConfig


@dataclass(frozen=True, slots=True)
class Candidate:
    """What table `responses` says of one response."""

    id: int
    response_id: str
    step: int
    num_tokens: int
    lottery: int
    evicted_step: int | None


def lottery_number(run_seed: int, response_id: str) -> int:
    """64 bits, signed as SQLite likes them."""
    return int.from_bytes(_hash(f"{run_seed}\0keep\0{response_id}"), "little", signed=True)


def turned_away(candidates: Sequence[Candidate], config: ReuseConfig) -> set[str]:
    """Ids of the responses of one prompt that are beyond `max_responses_per_prompt`. Keeping the smallest lottery
    numbers is a uniform sample of all that ever came by, in whatever order and however often (bottom-k sampling)."""
    if len(candidates) <= config.max_responses_per_prompt:
        return set()

    def place(candidate: Candidate) -> tuple[int, int, str]:
        age = -candidate.step if config.keep == "newest" else 0
        return age, candidate.lottery, candidate.response_id

    ranked = sorted(candidates, key=place)
    return {candidate.response_id for candidate in ranked[config.max_responses_per_prompt :]}


def choose(
    candidates: Sequence[Candidate],
    config: ReuseConfig,
    *,
    run_seed: int,
    prompt_id: str,
    step: int,
    position: int,
) -> Candidate:
    """The one to lend, by `reuse.pick`; the hash decides, or breaks the ties."""
    stem = f"{run_seed}\0borrow\0{prompt_id}\0{step}\0{position}"

    def place(candidate: Candidate) -> tuple[int, bytes]:
        first = {"newest": -candidate.step, "shortest": candidate.num_tokens, "uniform": 0}
        return first[config.pick], _hash(f"{stem}\0{candidate.response_id}")

    return min(candidates, key=place)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
