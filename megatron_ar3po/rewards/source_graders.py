"""The graders of a config, each started once: texts in, grades out. What decodes tokens and gives rewards for them is
the verifier of a run (verifier.py)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.last_number import grade_last_number
from megatron_ar3po.rewards.pool import VerifierPool
from megatron_ar3po.rewards.verifier import make_pool, verdict_options


class SourceGraders:
    """Worker processes start with the first text of their kind, and end with `close`."""

    def __init__(self, config: RewardsConfig) -> None:
        self._config = config
        self._of_source: dict[str, tuple[RewardsConfig, VerifierPool | None]] = {}

    def config_of(self, source: str) -> RewardsConfig:
        """Raises ValueError for a source without a verifier."""
        return self._grader_of(source)[0]

    def submit(
        self,
        text: str,
        ground_truth: str,
        *,
        source: str = "",
        metadata: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Future[Grade]:
        """`overrides` replace single `GradingOptions` of the mathematics grader; the others have none."""
        config, pool = self._grader_of(source)
        if pool is None:
            done = Future[Grade]()
            done.set_result(grade_last_number(text, ground_truth))
            return done
        options = overrides | verdict_options(metadata or {}, config)
        return pool.submit(text, ground_truth, **options)

    def close(self) -> None:
        for _, pool in self._of_source.values():
            if pool is not None:
                pool.close()

    def __enter__(self) -> SourceGraders:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _grader_of(self, source: str) -> tuple[RewardsConfig, VerifierPool | None]:
        if source not in self._of_source:
            config = self._config.for_source(source)
            if config is None:
                raise ValueError(
                    f"rewards.by_source names no verifier for the source {source!r}, only for "
                    f"{', '.join(map(repr, self._config.by_source))}; name one for it."
                )
            same = next((found for found in self._of_source.values() if found[0] == config), None)
            self._of_source[source] = same or (config, make_pool(config))
        return self._of_source[source]
