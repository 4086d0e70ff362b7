"""`EntropyFloor`: the weight of the entropy bonus adapts, so that the policy's entropy does not fall below a floor.

After Skywork-OR1 (arXiv:2505.22312), whose coefficient rises by a fixed amount in a step whose entropy is below the
target, falls by it in one that is above, and has an effect only while the entropy is not above the target. With e the
mean entropy of the response tokens that trained in a step, in nats, t `algorithm.entropy_target`, d
`entropy_coef_change` and m `entropy_coef_max`:

    c'   = min(m, c + d)  where e < t,  max(0, c - d)  otherwise
    used = c'  where e < t,  0  otherwise                       in the steps up to the next e

It begins with `algorithm.entropy_coef`, in use until an entropy has been measured. We differ in that e is the entropy
that the updates of the step before have measured: it costs no forward pass of its own.

Worked example, t 0.3, d 0.005, m 0.02, from 0:

    e      0.5    0.29   0.25   0.31   0.28
    c'     0      0.005  0.010  0.005  0.010
    used   0      0.005  0.010  0      0.010

A checkpoint keeps c and e, two numbers that are the same on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.records import Max, Records


class EntropyFloor:
    def __init__(
        self, config: AlgorithmConfig, state: Mapping[str, float | None] | None = None
    ) -> None:
        """`state`: that of a checkpoint; empty where the run begins, or had no target."""
        self._config = config
        there = state or {}
        start = there.get("coef")
        self._coef = config.entropy_coef if start is None else start
        self._entropy = there.get("entropy")  # the last that was measured

    @property
    def is_on(self) -> bool:
        return self._config.entropy_target > 0

    @property
    def coef(self) -> float:
        """Of the entropy bonus, in the step that comes."""
        if not self.is_on:
            return self._config.entropy_coef
        is_needed = self._entropy is None or self._entropy < self._config.entropy_target
        return min(self._coef, self._config.entropy_coef_max) if is_needed else 0.0

    def observe(self, entropy: float) -> None:
        """After the updates of a step: the mean entropy that they measured."""
        if not self.is_on:
            return
        config = self._config
        if entropy < config.entropy_target:
            self._coef = min(config.entropy_coef_max, self._coef + config.entropy_coef_change)
        else:
            self._coef = max(0.0, self._coef - config.entropy_coef_change)
        self._entropy = entropy

    @property
    def state(self) -> dict[str, float | None]:
        """For JSON; nothing where there is no target."""
        return {"coef": self._coef, "entropy": self._entropy} if self.is_on else {}

    @property
    def records(self) -> Records:
        """Of the step that comes; the same on every rank."""
        if not self.is_on:
            return Records()
        return Records(
            {
                "actor/entropy_target": Max(self._config.entropy_target),
                "actor/entropy_coef": Max(self.coef),
            }
        )
