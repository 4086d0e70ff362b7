"""The verifier of a run: tokens in, verdict out.

Promises: model text never raises, it becomes a verdict with the lowest reward and a status that says why; where the
verifier itself fails the verdict is an 'error' without a reward; a truncated
response is not graded unless `rewards.truncated=grade`; nothing blocks the event loop, so verification overlaps
generation; `version` changes whenever the same text could be graded differently. Reading answers is left to the
graders, processes and their limits to the pool.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Protocol

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.rewards.grade import Grade, own_tolerance
from megatron_ar3po.rewards.last_number import grade_last_number
from megatron_ar3po.rewards.math.grader import GradingOptions
from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool, VerifierPoolError
from megatron_ar3po.types import Prompt, Response, Verdict
from megatron_ar3po.user_functions import is_import_path


class Detokenizer(Protocol):
    """What the verifier needs of a tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...


def make_verifier(
    config: RewardsConfig, tokenizer: Detokenizer, *, max_response_tokens: int = 0
) -> Verifier:
    """The verifier that `rewards.verifier` names: math, last_number, or the import path of a user's own factory.
    `max_response_tokens` is only needed for the overlong punishment. A user's factory is called, and its signature
    checked, before this returns."""
    if config.overlong_penalty_tokens and max_response_tokens <= config.overlong_penalty_tokens:
        raise ValueError(
            f"rewards.overlong_penalty_tokens={config.overlong_penalty_tokens} needs a longer "
            f"rollout.max_response_tokens (it is {max_response_tokens}); lower the first or raise the second."
        )
    if config.verifier == "last_number":
        return ResponseVerifier(config, tokenizer, None, max_response_tokens)
    if config.verifier != "math" and not is_import_path(config.verifier):
        raise ValueError(
            f"rewards.verifier={config.verifier} is unknown; use math, last_number, or the import path of a factory "
            "as in my_package.my_module:make_grader."
        )
    pool = VerifierPool(pool_settings(config))
    if config.verifier != "math":
        try:
            pool.wait_until_ready()
        except VerifierPoolError as error:  # their code, so they can mend it
            pool.close()
            raise ValueError(_broken_grader(config.verifier, str(error))) from error
        except BaseException:  # an interrupt too: no worker outlives its pool
            pool.close()
            raise
    return ResponseVerifier(config, tokenizer, pool, max_response_tokens)


def _broken_grader(path: str, said: str) -> str:
    return (
        f"rewards.verifier={path} cannot grade. {said}\n"
        "It must be importable (from the current folder or PYTHONPATH) and be a factory: "
        "factory(rewards_config) returns grader(response, ground_truth), which returns a Grade, a bool or a number."
    )


def pool_settings(config: RewardsConfig) -> PoolSettings:
    is_math = config.verifier == "math"
    return PoolSettings(
        grader=config.verifier,
        options=asdict(grading_options(config)) if is_math else {},
        rewards={} if is_math else asdict(config),
        num_workers=config.num_workers,
        timeout_s=config.timeout_s,
        memory_bytes=config.worker_memory_mb * 1024**2,
    )


def grading_options(config: RewardsConfig) -> GradingOptions:
    return GradingOptions(
        answer_format=config.answer_format,
        strict=config.strict_format,
        fallback=config.answer_fallback,
        tolerance=repr(config.tolerance),
    )


def verdict_options(metadata: Mapping[str, object], config: RewardsConfig) -> dict[str, str]:
    """What of a prompt's metadata its verdicts hang on, as options of the grader: a tolerance of its own (`math`).

    >>> verdict_options({"error": "1e-1", "level": 3}, RewardsConfig())
    {'tolerance': '0.1'}
    >>> verdict_options({"error": "1e-1"}, RewardsConfig(verifier="last_number"))
    {}
    """
    return own_tolerance(metadata.get("error")) if config.verifier == "math" else {}


def verifier_version(config: RewardsConfig) -> str:
    """Changes whenever the same text could be graded differently."""
    if config.verifier == "last_number":
        return f"last_number-1:{config.truncated}"
    if config.verifier == "math":
        return f"{grading_options(config).version}:{config.truncated}"
    settings = hashlib.sha256(repr(sorted(asdict(config).items())).encode()).hexdigest()
    return f"{config.verifier}:{settings[:12]}"


# --- rewards


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

    def __init__(
        self,
        config: RewardsConfig,
        tokenizer: Detokenizer,
        pool: VerifierPool | None,
        max_response_tokens: int,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._pool = pool
        self._max_response_tokens = max_response_tokens

    @property
    def version(self) -> str:
        return verifier_version(self._config)

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        penalty = overlong_penalty(
            response.num_tokens,
            max_tokens=self._max_response_tokens,
            interval=self._config.overlong_penalty_tokens,
        )
        if response.finish_reason != "stop" and self._config.truncated == "incorrect":
            reason = f"ended by {response.finish_reason!r} after {response.num_tokens} tokens"
            return Verdict(
                reward=self._config.incorrect + penalty, status="truncated", reason=reason
            )
        text = self._tokenizer.decode(response.token_ids.tolist(), skip_special_tokens=True)
        grade = await self._grade(text, prompt)
        return Verdict(
            reward=None if grade.status == "error" else self._reward(grade) + penalty,
            status=grade.status,
            extracted=grade.extracted,
            reason=grade.reason,
            elapsed_s=grade.elapsed_s,
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    async def _grade(self, text: str, prompt: Prompt) -> Grade:
        if self._pool is None:
            started = time.perf_counter()
            grade = grade_last_number(text, prompt.ground_truth)
            return Grade(
                status=grade.status,
                extracted=grade.extracted,
                reason=grade.reason,
                elapsed_s=time.perf_counter() - started,
            )
        try:
            return await asyncio.wrap_future(
                self._pool.submit(
                    text, prompt.ground_truth, **verdict_options(prompt.metadata, self._config)
                )
            )
        except VerifierPoolError as error:
            # No worker runs any more. `rewards.max_error_frac` ends the run with these words, after what was graded
            # before has been accounted for.
            return Grade(status="error", reason=str(error))

    def _reward(self, grade: Grade) -> float:
        if grade.reward is not None and grade.status != "ungradable":
            return grade.reward
        reward = self._config.correct if grade.status == "correct" else self._config.incorrect
        return reward + self._config.format_reward * grade.is_marked
