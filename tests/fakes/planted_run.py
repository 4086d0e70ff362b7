"""The folder of a run that never ran, with files as a run writes them: what a report says of it is known beforehand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.run.folder_format import write_format

EVALUATED_PROMPTS = 200
TOKENS = 10  # of each response


@dataclass(kw_only=True)
class PlantedRun:
    """`skill`: the chance of a correct response after so many of all steps (0 to 1). Ten responses' tokens are 100."""

    skill: Callable[[float], float]
    steps: int = 20
    prompts_per_step: int = 10
    responses: int = 8
    prompts: int = 40
    evaluate_every: int = 5
    recorded: int = 2  # groups of each step
    checkpoints: tuple[int, ...] = (20,)
    config: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] | None = None  # in every step's row, instead of what is there
    verdict: Callable[[bool, random.Random], str] = lambda is_right, _: (
        "correct" if is_right else "incorrect"
    )
    text: Callable[[bool], str] = lambda is_right: "it is 4" if is_right else "it is 5"

    def write(self, folder: Path, *, done: bool = True) -> Path:
        draw = random.Random(7)
        (folder / "ledger").mkdir(parents=True)
        options = {
            "run": {"name": "planted", "num_steps": self.steps},
            "algorithm": {"name": "ar3po"},
        }
        (folder / "resolved_config.yaml").write_text(json.dumps({**options, **(self.config or {})}))
        write_format(folder)
        for step in self.checkpoints:
            (folder / f"checkpoints/step_{step:05d}").mkdir(parents=True)
        with (
            (folder / "metrics.jsonl").open("w") as metrics,
            (folder / "ledger/dp00.jsonl").open("wb") as ledger,
            (folder / "rollouts.jsonl").open("w") as rollouts,
        ):
            responses = 0
            for step in range(self.steps + 1):
                groups = list(self.groups(step, draw)) if step else []
                responses += len(groups) * self.responses
                ledger.writelines(b"%s\n" % row for row in self.ledger_rows(step, groups))
                metrics.write(json.dumps(self.metrics_row(step, groups, responses)) + "\n")
                for group in groups[: self.recorded]:
                    rollouts.write(json.dumps(self.recorded_row(step, group)) + "\n")
        if done:
            (folder / "DONE").write_text("{}")
        return folder

    def groups(self, step: int, draw: random.Random) -> Iterator[dict[str, Any]]:
        chance = self.skill(step / self.steps)
        for position in range(self.prompts_per_step):
            right = [draw.random() < chance for _ in range(self.responses)]
            statuses = [self.verdict(one, draw) for one in right]
            prompt = ((step - 1) * self.prompts_per_step + position) % self.prompts
            yield {"prompt": prompt, "position": position, "right": right, "statuses": statuses}

    def ledger_rows(self, step: int, groups: list[dict[str, Any]]) -> Iterator[bytes]:
        for group in groups:
            statuses = group["statuses"]
            correct, failed = statuses.count("correct"), statuses.count("error")
            graded = len(statuses) - failed
            outcome = "mixed" if 0 < correct < graded else "all_correct" if correct else "all_wrong"
            yield seal_row(
                {
                    "kind": "prompt",
                    "step": step,
                    "position": group["position"],
                    "prompt_id": f"{group['prompt']:032x}",
                    "source": "sums",
                    "policy_version": step - 1,
                    "outcome": outcome if graded else "verifier_error",
                    "stop_reason": "stages_done",
                    "discarded": False,
                    "stages": 1,
                    "responses": len(statuses),
                    "correct": correct,
                    "ungradable": 0,
                    "prompt_tokens": 64,
                    "cached_prompt_tokens": 0,
                    "response_tokens": TOKENS * len(statuses),
                    "truncated": 0,
                    "cancelled": 0,
                    "cancelled_tokens": 0,
                    "ungraded": failed,
                    "ungraded_tokens": TOKENS * failed,
                    "aborted": 0,
                    "aborted_tokens": 0,
                    "unusable": 0,
                    "unusable_tokens": 0,
                    "restored": 0,
                    "restored_tokens": 0,
                    "request_s": 0.5,
                    "servers": ["dp0.s0"],
                }
            )

    def metrics_row(
        self, step: int, groups: list[dict[str, Any]], responses: int
    ) -> dict[str, Any]:
        row: dict[str, Any] = {
            "step": step,
            "rollout/responses_total": responses,
            "rollout/tokens_total": TOKENS * responses,
            "time/wall_s": 2.0,
            "time/step_s": 1.5,
            "time/rollout_s": 1.0,
            "time/train_s": 0.5,
        }
        if groups:
            statuses = [status for group in groups for status in group["statuses"]]
            graded = [status for status in statuses if status != "error"]
            row |= {
                "rollout/prompts": len(groups),
                "rollout/responses_generated": len(statuses),
                "rollout/stage_1/responses": len(statuses),
                "rollout/stage_1/active_prompts": len(groups),
                "reward/correct_frac": graded.count("correct") / max(1, len(graded)),
                "reward/verifier_error_frac": statuses.count("error") / len(statuses),
                "reward/ungradable_frac": 0,
                "response/length_tokens": TOKENS,
                "response/length_max_tokens": TOKENS,
                "mismatch/logprob_abs_mean": 1e-6,
                "mismatch/logprob_abs_max": 1e-5,
                "actor/entropy": 1.0,
                "actor/grad_norm": 1.0,
                "reuse/borrowed_groups": 1,
                "reuse/borrowed_frac": 0.1,
                "reuse/hit_frac": 0.5,
                "reuse/age_steps": 3,
                "reuse/idle_loans": 0,
                "reuse/store_responses": 4 * step,
            }
        if self.evaluate_every and step % self.evaluate_every == 0:
            rate = self.skill(step / self.steps)
            row |= {"eval/pass_at_1": rate, "eval/prompts": EVALUATED_PROMPTS}
            row["eval/pass_at_1_stderr"] = (rate * (1 - rate) / (EVALUATED_PROMPTS - 1)) ** 0.5
        return row | (self.metrics or {})

    def recorded_row(self, step: int, group: dict[str, Any]) -> dict[str, Any]:
        responses = [
            {
                "text": self.text(is_right),
                "reward": float(status == "correct"),
                "status": status,
                "reason": "planted",
                "origin": "fresh",
                "stage": 1,
                "tokens": TOKENS,
                "policy_version": step - 1,
                "advantage": 0.5 if status == "correct" else -0.5,
                "logprobs": [-0.5, -2.0, -0.1],
                "token_lengths": [2, 3, 2],
            }
            for is_right, status in zip(group["right"], group["statuses"], strict=True)
        ]
        return {
            "step": step,
            "prompt": f"2 + 2, number {group['prompt']}?",
            "ground_truth": "4",
            "stages": 1,
            "responses": responses,
            "prompt_id": f"{group['prompt']:032x}",
            "source": "sums" if step % 2 else "more sums",
        }


def learning(progress: float) -> float:
    """From 0.2 to 0.8."""
    return 0.2 + 0.6 * progress


def collapsing(progress: float) -> float:
    """From 0.2 to 0.8 in the first half, and down to 0.05 in the second."""
    return 0.2 + 1.2 * progress if progress <= 0.5 else 0.8 - 1.5 * (progress - 0.5)
