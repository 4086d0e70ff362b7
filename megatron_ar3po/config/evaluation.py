"""Section `evaluation`: held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ar3po.config.at_resume import Fixed, Free, Warn
from megatron_ar3po.config.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Held-out prompts, sampled with the same settings and the same noise before, during and after training."""

    path: Warn[str] = ""
    """JSONL file of held-out prompts, in the form of `data.path`. Empty: no evaluation."""

    every_steps: Free[int] = 0
    """Evaluate after every so many training steps too. 0: only before the first and after the last."""

    samples_per_prompt: Warn[int] = 4
    """Responses of each held-out prompt. avg@n and pass@k are estimated from them; more make them steadier."""

    max_prompts: Fixed[int] = 0
    """Only the first so many of the file. 0: all."""

    temperature: Fixed[float] = 1.0
    """Of evaluation's sampling. 1: the policy that trains."""

    top_p: Fixed[float] = 1.0
    """Nucleus sampling in evaluation. 1: no cut."""

    def __post_init__(self) -> None:
        require(self.samples_per_prompt >= 1, "evaluation.samples_per_prompt must be at least 1.")
