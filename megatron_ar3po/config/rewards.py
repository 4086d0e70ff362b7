"""Section `rewards`: how a response is graded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_ar3po.config.at_resume import Fixed, Free, Warn
from megatron_ar3po.config.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardsConfig:
    """How a response is graded. docs/verifier.md has the rules of equality."""

    verifier: Fixed[str] = "math"
    """`math` (mathematics in LaTeX or plain text), `last_number` (the last number, exactly), or the import path
    'package.module:factory' of a factory that returns your own grader."""

    timeout_s: Warn[float] = 5.0
    """Seconds of grading for each response. Past them the worker is killed and the response tried once more; a second
    time it is `ungradable`, with the reward of an incorrect response. Ordinary answers take milliseconds."""

    num_workers: Free[int] = 1
    """Verifier processes of each replica. Grading runs beside sampling, so one is enough until responses wait for
    their verdicts; the examples for GPUs take 8."""

    truncated: Fixed[Literal["incorrect", "grade"]] = "incorrect"
    """A response without its stop token is `incorrect`, as it never finished, or is graded all the same."""

    correct: Fixed[float] = 1.0
    """Reward of a correct response."""

    incorrect: Fixed[float] = 0.0
    """Reward of any other response."""

    max_error_frac: Free[float] = 0.5
    """When more than this share of the verdicts of a step, or of an evaluation, are `error` or `ungradable`, the run
    halts: a verifier that cannot say teaches nothing, or that everything is wrong."""

    overlong_penalty_tokens: Fixed[int] = 0
    """DAPO's soft overlong punishment: over the last so many tokens before `rollout.max_response_tokens` the reward
    falls by 0 to 1. DAPO's paper takes a fifth of the limit. 0: off, as the right length depends on the limit."""

    answer_format: Fixed[Literal["any", "boxed", "answer_line", "hashes"]] = "any"
    """Where the final answer stands (`math` only): `boxed` in `\\boxed{}`, `answer_line` behind "Answer:", `hashes`
    behind "####", `any` the mark that stands last."""

    strict_format: Fixed[bool] = False
    """Only the mark of `rewards.answer_format` counts, closed and complete (`math` only). Off by default, for a right
    answer in another form is right."""

    answer_fallback: Fixed[bool] = True
    """Without a marked answer the last formula or number of the response counts (`math` only)."""

    format_reward: Fixed[float] = 0.0
    """Added to the reward when the answer is marked, right or wrong (`math` only)."""

    tolerance: Fixed[float] = 0.0
    """Numbers that differ by at most this, absolutely, are equal (`math` only). A prompt's metadata field `error`
    goes before it. 0: exact."""

    worker_memory_mb: Warn[int] = 1024
    """MiB that a verifier process may use beyond what it has after its start. Past them it is started again and the
    response tried once more; a second time it is `ungradable`. At least 256, which SymPy needs."""

    def __post_init__(self) -> None:
        require(
            self.timeout_s > 0, f"rewards.timeout_s={self.timeout_s} must be more than 0 seconds."
        )
        require(
            self.num_workers >= 1, f"rewards.num_workers={self.num_workers} must be at least 1."
        )
        require(
            self.correct > self.incorrect,
            f"rewards.correct={self.correct} must be above rewards.incorrect={self.incorrect}.",
        )
        require(
            self.tolerance >= 0,
            f"rewards.tolerance={self.tolerance} is negative; use 0 for exact answers.",
        )
        require(
            not (self.strict_format and self.answer_format == "any"),
            "rewards.strict_format=true needs one rewards.answer_format; "
            "use boxed, answer_line or hashes.",
        )
        require(
            self.worker_memory_mb >= 256,
            f"rewards.worker_memory_mb={self.worker_memory_mb} is too little for SymPy; "
            "use 256 or more.",
        )
