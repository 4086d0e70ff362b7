"""Which stored responses stay and which one is lent: pure functions, whose only chance is a hash of the run's seed.

So there is no random state to save, no order of arrival that matters, and a resumed run chooses the same again.

A user's own choice is a Python function named by `reuse.pick=package.module:function`:

    def pick(candidates, request):
        return max(candidates, key=lambda c: (c.times_borrowed == 0, request.chance(c)))

`candidates`, at least one, are those that the trust policy lets through (`Candidate`); `request` says who asks
(`LoanRequest`). It returns one of them, or None to lend nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.user_functions import UserFunction, is_import_path, load_user_function


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored response that may be lent. `hash_rank` is a 64-bit hash of its id."""

    id: int  # of its row
    step: int  # of its deposit
    num_tokens: int
    hash_rank: int
    times_borrowed: int = 0
    last_borrowed_step: int | None = None
    mean_logprob: float | None = None  # under the current policy; None where nobody asked


@dataclass(frozen=True, slots=True)
class LoanRequest:
    """Who asks for a response: the prompt at `position` of `step`."""

    run_seed: int
    prompt_id: str
    step: int
    position: int

    def chance(self, candidate: Candidate) -> bytes:
        """Uniform over all values, a function of run seed, prompt, step, position and response: for random choices that
        come out the same after a resume."""
        stem = f"{self.run_seed}\0borrow\0{self.prompt_id}\0{self.step}\0{self.position}"
        return _hash(f"{stem}\0{candidate.hash_rank}")


def check_pick(config: ReuseConfig) -> None:
    """At the start of a run: a user's own function is imported and its parameters compared."""
    if is_import_path(config.pick):
        _load_pick_function(config.pick)


def hash_rank_of(run_seed: int, response_id: str) -> int:
    """64 bits of a hash, signed as SQLite likes them: decides which responses stay."""
    return int.from_bytes(_hash(f"{run_seed}\0keep\0{response_id}"), "little", signed=True)


def ranks_beyond_cap(
    stored: Sequence[tuple[int, int]], *, cap: int, keep: Literal["newest", "reservoir"]
) -> set[int]:
    """Hash ranks of the responses of one prompt, given as (step, hash_rank), that are beyond `cap`. Keeping the
    smallest ranks is a uniform sample of all that ever came by, in whatever order and however often (bottom-k
    sampling)."""
    if len(stored) <= cap:
        return set()
    if keep == "newest":
        ranked = sorted(stored, key=lambda step_and_rank: (-step_and_rank[0], step_and_rank[1]))
    else:
        ranked = sorted(stored, key=lambda step_and_rank: step_and_rank[1])
    return {hash_rank for _, hash_rank in ranked[cap:]}


def shortlist(
    candidates: Sequence[Candidate], config: ReuseConfig, request: LoanRequest
) -> Sequence[Candidate]:
    """The `reuse.max_scored_candidates` that the servers are asked about, in the order in which they would be lent."""
    first = {"newest": lambda c: -c.step, "shortest": lambda c: c.num_tokens}.get(
        config.pick, lambda c: 0
    )
    ranked = sorted(candidates, key=lambda c: (first(c), request.chance(c)))
    return ranked[: config.max_scored_candidates]


def choose(
    candidates: Sequence[Candidate], config: ReuseConfig, request: LoanRequest
) -> Candidate | None:
    """The one to lend, by `reuse.pick`; the hash decides, or breaks the ties. None: a user's function refuses."""
    if is_import_path(config.pick):
        return _ask_user_function(candidates, config.pick, request)
    if config.pick == "likely":
        return min(candidates, key=lambda c: (-_score(c), request.chance(c)))
    if config.pick == "newest":
        return min(candidates, key=lambda c: (-c.step, request.chance(c)))
    if config.pick == "shortest":
        return min(candidates, key=lambda c: (c.num_tokens, request.chance(c)))
    return min(candidates, key=request.chance)


def _score(candidate: Candidate) -> float:
    assert candidate.mean_logprob is not None, "reuse.pick=likely without the servers' log-probs"
    return candidate.mean_logprob


def _ask_user_function(
    candidates: Sequence[Candidate], path: str, request: LoanRequest
) -> Candidate | None:
    chosen = _load_pick_function(path)(tuple(candidates), request)
    if chosen is not None and chosen not in candidates:
        raise ValueError(
            f"reuse.pick={path} returned {chosen!r}; it must return one of its candidates, or None to lend nothing."
        )
    return chosen


def _load_pick_function(path: str) -> UserFunction:
    return load_user_function("reuse.pick", path, "candidates", "request")


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
