"""The verifiers of a run as the data room sees them (`GradingRules`): what of them is part of a prompt's identity, and
which ground truths they can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.rewards.ground_truths import check_ground_truths
from megatron_ar3po.rewards.source_graders import SourceGraders
from megatron_ar3po.rewards.verifier import verdict_options, verifier_version
from megatron_ar3po.types import Prompt

Reasons = list[str | None]


class PromptGrading:
    """`run` calls what starts worker processes: on one rank for all, in a run of several."""

    def __init__(
        self,
        config: RewardsConfig,
        run: Callable[[Callable[[], Reasons]], Reasons] = lambda work: work(),
    ) -> None:
        self._config = config
        self._run = run
        self._of_source: dict[str, RewardsConfig | None] = {}

    def config_of(self, source: str) -> RewardsConfig | None:
        if source not in self._of_source:
            self._of_source[source] = self._config.for_source(source)
        return self._of_source[source]

    def version_of(self, source: str) -> str | None:
        config = self.config_of(source)
        return None if config is None else verifier_version(config)

    def options_of(self, source: str, metadata: Mapping[str, Any]) -> dict[str, str]:
        config = self.config_of(source)
        return {} if config is None else verdict_options(metadata, config)

    def incorrect_reward(self, prompt: Prompt) -> float:
        """Of an incorrect response to it."""
        return self._known_config(prompt.source).incorrect

    def why_unusable(self, prompts: Sequence[Prompt]) -> Reasons:
        return self._run(lambda: self._check_prompts(prompts))

    def why_different(self, pairs: Sequence[tuple[Prompt, Prompt]]) -> Reasons:
        return self._run(lambda: self._compare(pairs))

    def _known_config(self, source: str) -> RewardsConfig:
        config = self.config_of(source)
        assert config is not None, f"a prompt of a source without a verifier: {source!r}"
        return config

    def _check_prompts(self, prompts: Sequence[Prompt]) -> Reasons:
        reasons: Reasons = [None] * len(prompts)
        for source in dict.fromkeys(prompt.source for prompt in prompts):
            config = self._known_config(source)
            mine = [i for i, prompt in enumerate(prompts) if prompt.source == source]
            texts = [prompts[i].ground_truth for i in mine]
            for i, reason in zip(mine, check_ground_truths(texts, config), strict=True):
                reasons[i] = reason
        return reasons

    def _compare(self, pairs: Sequence[tuple[Prompt, Prompt]]) -> Reasons:
        """Both ways round: each is an answer to the other."""
        with SourceGraders(self._config) as graders:
            futures = [
                [
                    graders.submit(
                        answer.ground_truth,
                        expected.ground_truth,
                        source=expected.source,
                        metadata=expected.metadata,
                        is_answer=True,
                    )
                    for answer, expected in (pair, pair[::-1])
                ]
                for pair in pairs
            ]
            grades = [[future.result() for future in both] for both in futures]
        return [
            next(
                (grade.reason or grade.status for grade in both if grade.status != "correct"), None
            )
            for both in grades
        ]
