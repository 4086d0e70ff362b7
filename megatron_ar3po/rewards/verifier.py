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
from typing import Any, Protocol

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.rewards.grade import Grade, own_tolerance
from megatron_ar3po.rewards.last_number import grade_last_number
from megatron_ar3po.rewards.math.grader import GradingOptions
from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool, VerifierPoolError
from megatron_ar3po.types import Prompt, Response, Verdict


class Detokenizer(Protocol):
    """What the verifier needs of a tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...


def make_verifier(
    config: RewardsConfig, tokenizer: Detokenizer, *, max_response_tokens: int = 0
) -> Verifier:
    """The verifier that `rewards.verifier` names: math, last_number, or the import path of a user's own factory; or one
    for each source (`rewards.by_source`). `max_response_tokens` is only needed for the overlong punishment. A user's
    factory is called, and its signature checked, before this returns."""
    if config.by_source:
        return VerifierBySource(config, tokenizer, max_response_tokens)
    config.check_lengths(max_response_tokens)
    return ResponseVerifier(config, tokenizer, make_pool(config), max_response_tokens)


def make_pool(config: RewardsConfig) -> VerifierPool | None:
    """The worker processes of `rewards.verifier`; None for last_number, which needs none. Raises ValueError for a
    user's factory that cannot be called."""
    if config.verifier == "last_number":
        return None
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
    return pool


def _broken_grader(path: str, said: str) -> str:
    return (
        f"rewards.verifier={path} cannot grade. {said}\n"
        "It must be importable (from the current folder or PYTHONPATH) and be a factory: "
        "factory(rewards_config) returns grader(response, ground_truth), which returns a Grade, a bool or a number."
    )


def pool_settings(config: RewardsConfig) -> PoolSettings:
    is_math = config.verifier == "math"
    assert not config.by_source, "each source has its own (RewardsConfig.for_source)"
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
        require_evaluated=config.require_evaluated,
    )


def verdict_options(metadata: Mapping[str, object], config: RewardsConfig) -> dict[str, str]:
    """What of a prompt's metadata its verdicts hang on, as options of the grader: a tolerance of its own (`math`), in
    the field `rewards.tolerance_field`. `config` is that of the prompt's source.

    >>> verdict_options({"error": "1e-1", "level": 3}, RewardsConfig())
    {'tolerance': '0.1'}
    >>> verdict_options({"error": "1e-1"}, RewardsConfig(verifier="last_number"))
    {}
    """
    return own_tolerance(metadata.get(config.tolerance_field)) if config.verifier == "math" else {}


# A user's verifier is given all of the section, so that each of these is part of its version. Others are where they
# are not at their default: prompts keep the ids that they had before there was such an option.
_ALWAYS_IN_VERSION = {
    *("verifier", "timeout_s", "num_workers", "truncated", "correct", "incorrect"),
    *("max_error_frac", "overlong_penalty_tokens", "answer_format", "strict_format"),
    *("answer_fallback", "format_reward", "tolerance", "worker_memory_mb"),
}


def verifier_version(config: RewardsConfig) -> str:
    """Changes whenever the same text could be graded differently. Of one source: with `rewards.by_source` each has its
    own (`RewardsConfig.for_source`)."""
    if config.by_source:
        sources = {source: config.for_source(source) for source in config.by_source}
        versions = {source: verifier_version(c) for source, c in sources.items() if c is not None}
        return f"by_source:{_digest(sorted(versions.items()))}"
    if config.verifier == "last_number":
        return f"last_number-1:{config.truncated}"
    if config.verifier == "math":
        return f"{grading_options(config).version}:{config.truncated}"
    defaults = asdict(RewardsConfig())
    settings = {
        name: value
        for name, value in asdict(config).items()
        if name in _ALWAYS_IN_VERSION or value != defaults[name]
    }
    return f"{config.verifier}:{_digest(sorted(settings.items()))}"


def _digest(items: list[tuple[str, Any]]) -> str:
    return hashlib.sha256(repr(items).encode()).hexdigest()[:12]


# --- rewards


def overlong_penalty(num_tokens: int, *, max_tokens: int, interval: int) -> float:
    """DAPO (arXiv:2503.14476), Eq. 13: 0 up to `max_tokens - interval`, then falling in a line to -1 at `max_tokens`.

    >>> overlong_penalty(75, max_tokens=100, interval=50)
    -0.5
    """
    if not interval:
        return 0.0
    return -min(1.0, max(0.0, (num_tokens - (max_tokens - interval)) / interval))


def reward_of(grade: Grade, config: RewardsConfig) -> float | None:
    """Before any punishment of its length; None where the verifier has failed."""
    if grade.status == "error":
        return None
    if grade.reward is not None and grade.status != "ungradable":
        return grade.reward
    reward = config.correct if grade.status == "correct" else config.incorrect
    return reward + config.format_reward * grade.is_marked


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
        reward = reward_of(grade, self._config)
        return Verdict(
            reward=None if reward is None else reward + penalty,
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


class VerifierBySource:
    """One `ResponseVerifier` for each kind of grading that `rewards.by_source` names; a prompt's source chooses."""

    def __init__(
        self, config: RewardsConfig, tokenizer: Detokenizer, max_response_tokens: int
    ) -> None:
        self._config = config
        self._kinds: list[tuple[RewardsConfig, Verifier]] = []
        self._of_source: dict[str, Verifier] = {}
        try:
            for source in config.by_source:
                self._of_source[source] = self._make(source, tokenizer, max_response_tokens)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        return verifier_version(self._config)

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        return await self._of_source[prompt.source].verify(prompt, response)

    def close(self) -> None:
        for _, verifier in self._kinds:
            verifier.close()

    def _make(self, source: str, tokenizer: Detokenizer, max_response_tokens: int) -> Verifier:
        own = self._config.for_source(source)
        assert own is not None, "by_source names it"
        for there, verifier in self._kinds:
            if there == own:
                return verifier
        try:
            verifier = make_verifier(own, tokenizer, max_response_tokens=max_response_tokens)
        except ValueError as error:
            raise ValueError(f"rewards.by_source.{source}: {error}") from error
        self._kinds.append((own, verifier))
        return verifier
