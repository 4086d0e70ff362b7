"""The verifier of a run: tokens in, verdict out.

Promises: model text never raises, it becomes a verdict with the lowest reward and a status that says why; a truncated
response is not graded unless `rewards.truncated=grade`; `version` changes whenever the same text could be graded
differently. Parsing answers is left to the graders, processes to the pool.
"""

from __future__ import annotations

import time
from typing import Protocol

from megatron_ar3po.config.schema import RewardsConfig
from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.last_number import grade_last_number, plain_number
from megatron_ar3po.types import Prompt, Response, Verdict


class Detokenizer(Protocol):
    """What the verifier needs of a tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...


def make_verifier(config: RewardsConfig, tokenizer: Detokenizer, *, max_response_tokens: int = 0) -> Verifier:
    """The verifier that `rewards.verifier` names. `max_response_tokens` is only needed for the overlong punishment."""
    if config.overlong_penalty_tokens and max_response_tokens <= config.overlong_penalty_tokens:
        raise ValueError(
            f"rewards.overlong_penalty_tokens={config.overlong_penalty_tokens} needs a longer "
            f"rollout.max_response_tokens (it is {max_response_tokens}); lower the first or raise the second."
        )
    if config.verifier == "last_number":
        return ResponseVerifier(config, tokenizer, max_response_tokens=max_response_tokens)
    raise ValueError(f"rewards.verifier={config.verifier} is unknown; use last_number.")


def check_ground_truth(text: str, verifier: str = "last_number") -> str | None:
    """None when the verifier can grade against this ground truth, else one line that says why not."""
    if not text.strip():
        return "it is empty"
    if verifier == "last_number" and plain_number(text) is None:
        return f"{text[:80]!r} is not a plain integer or decimal, which rewards.verifier=last_number compares with"
    return None


def overlong_penalty(num_tokens: int, *, max_tokens: int, interval: int) -> float:
    """DAPO (arXiv:2503.14476), Eq. 13: 0 up to `max_tokens - interval`, then falling in a line to -1 at `max_tokens`.

    >>> overlong_penalty(75, max_tokens=100, interval=50)
    -0.5
    """
    if not interval:
        return 0.0
    return -min(1.0, max(0.0, (num_tokens - (max_tokens - interval)) / interval))


class ResponseVerifier:
    """Decodes, applies the rules that hold for every grader, and attaches rewards to grades."""

    def __init__(self, config: RewardsConfig, tokenizer: Detokenizer, *, max_response_tokens: int) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._max_response_tokens = max_response_tokens
        self.version = "last_number-1"

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        started = time.perf_counter()
        penalty = overlong_penalty(
            response.num_tokens,
            max_tokens=self._max_response_tokens,
            interval=self._config.overlong_penalty_tokens,
        )
        if response.finish_reason != "stop" and self._config.truncated == "incorrect":
            reason = f"the response ended by {response.finish_reason!r} after {response.num_tokens} tokens"
            return Verdict(reward=self._config.incorrect + penalty, status="truncated", reason=reason)
        text = self._tokenizer.decode(response.token_ids.tolist(), skip_special_tokens=True)
        grade = grade_last_number(text, prompt.ground_truth)
        return Verdict(
            reward=self._reward(grade) + penalty,
            status=grade.status,
            extracted=grade.extracted,
            reason=grade.reason,
            elapsed_s=time.perf_counter() - started,
        )

    def close(self) -> None:
        """Nothing to end: this grader runs in the caller's process."""

    def _reward(self, grade: Grade) -> float:
        if grade.reward is not None:
            return grade.reward
        return self._config.correct if grade.status == "correct" else self._config.incorrect
