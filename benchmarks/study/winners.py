"""Stage one: each family's winner by the rules of docs/comparison.md, and the arms of stage two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from .runs import Run, accuracy_at, read_runs

FAMILIES = ("grpo", "dapo", "ar3po", "history")
TIE = 0.005


@dataclass(frozen=True, kw_only=True)
class Setting:
    name: str  # FAMILY_RESPONSES_LEARNINGRATE_PROMPTS...
    score: float

    @property
    def family(self) -> str:
        return self.name.split("_")[0]

    @property
    def learning_rate(self) -> float:
        return float(self.name.split("_")[2])

    @property
    def prompts_per_step(self) -> int:
        return int(self.name.split("_")[3])


def score_settings(runs: Sequence[Run], budget: int = 2000, parts: int = 5) -> list[Setting]:
    """Best first: the mean of pass@1 at five equal parts of the budget, over the seeds."""
    by_name: dict[str, list[float]] = {}
    for run in runs:
        scores = [accuracy_at(run, budget * part / parts) for part in range(1, parts + 1)]
        by_name.setdefault(run.variant, []).append(fmean(scores))
    settings = [Setting(name=name, score=fmean(scores)) for name, scores in by_name.items()]
    return sorted(settings, key=lambda setting: -setting.score)


def choose_winner(settings: Sequence[Setting]) -> Setting:
    """Of one family, best first: within 0.005 of the best the one with most prompts a step, of these the best.

    >>> a, b = Setting(name="grpo_4_8e-4_6", score=0.5), Setting(name="grpo_4_8e-4_16", score=0.496)
    >>> choose_winner([a, b]).name
    'grpo_4_8e-4_16'
    """
    near = [s for s in settings if s.score >= settings[0].score - TIE]
    most = max(s.prompts_per_step for s in near)
    return next(s for s in near if s.prompts_per_step == most)


def choose_arms(settings: Sequence[Setting]) -> tuple[list[Setting], list[Setting]]:
    """The winner of each family, and the two settings with the next highest mean of all families together."""
    families = {s.family for s in settings}
    winners = [
        choose_winner([s for s in settings if s.family == f]) for f in FAMILIES if f in families
    ]
    return winners, [s for s in settings if s not in winners][:2]


def tell_winners(task: str) -> str:
    settings = score_settings(read_runs(f"tuning_{task}"))
    if not settings:
        return f"## {task}: no run yet"
    winners, challengers = choose_arms(settings)
    lines = [f"## {task}", "", "| setting | mean pass@1 at five budgets | |", "|---|---|---|"]
    for setting in settings:
        mark = "challenger" if setting in challengers else ""
        mark = "winner" if setting in winners else mark
        lines.append(f"| {setting.name} | {setting.score:.3f} | {mark} |")
    rates = sorted({s.learning_rate for s in settings})
    edge = [w.name for w in winners if w.learning_rate in (rates[0], rates[-1])]
    return "\n".join(
        [*lines, "", f"at the edge of the learning rates: {', '.join(edge) or 'none'}"]
    )
