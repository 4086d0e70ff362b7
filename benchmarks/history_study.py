"""The second study of docs/comparison.md: its prompts, and what became of its runs.

    python benchmarks/history_study.py prepare
        .cache/TASK/study/: held-out prompts whose source is their difficulty, 32 training prompts of each difficulty,
        and the suite that evaluates them
    python benchmarks/history_study.py collect tuning_tiny_sum runs/tuning_tiny_sum
        the curves of the finished runs of a comparison -> benchmarks/results/history_study/tuning_tiny_sum.jsonl
    python benchmarks/history_study.py winners
        stage one: each family's settings by the rule, and the arms of stage two
    python benchmarks/history_study.py table
        stage two: the tables and verdicts of docs/comparison.md, as Markdown

A line of a file of curves is a run, so that seeds may be run on several days and machines.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from megatron_ar3po.comparison import curves
from megatron_ar3po.comparison.curves import Axis, Point, RunCurve, costs_of, position_after
from megatron_ar3po.comparison.statistics import bounded_ratio, paired_difference, t_interval
from megatron_ar3po.observability.row_file import read_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "history_study"
TASKS = ("tiny_sum", "tiny_sum_core", "tiny_sum_wide")
THIRDS = ("core", "mixed", "easy")
TRAINED = 32  # training prompts of each difficulty that are evaluated
FAMILIES = ("grpo", "dapo", "ar3po", "history")
TIE = 0.005


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation of a run, and what the run had spent until then."""

    step: int
    responses: float
    tokens: float
    seconds: float  # of steps
    accuracy: Mapping[
        str, float
    ]  # "pass_at_1", "pass_at_4", "easy/pass_at_1", "train_easy/pass_at_4", ...
    entropy: float | None  # nats a token, the mean over the steps since the evaluation before


@dataclass(frozen=True, kw_only=True)
class Run:
    variant: str
    seed: int
    points: tuple[Evaluated, ...]


def read_run(folder: Path, variant: str, seed: int) -> Run:
    points: list[Evaluated] = []
    entropies: list[float] = []
    responses = tokens = seconds = 0.0
    for row in read_rows(folder / "metrics.jsonl"):
        responses = position_after(row, "responses", responses)
        tokens = position_after(row, "tokens", tokens)
        seconds += row.get("time/step_s") or 0
        if row.get("actor/entropy") is not None:
            entropies.append(row["actor/entropy"])
        if row.get("eval/pass_at_1") is None:
            continue
        points.append(
            Evaluated(
                step=row["step"],
                responses=responses,
                tokens=tokens,
                seconds=round(seconds, 2),
                accuracy=accuracy_of(row),
                entropy=round(fmean(entropies), 5) if entropies else None,
            )
        )
        entropies.clear()
    return Run(variant=variant, seed=seed, points=tuple(points))


def accuracy_of(row: Mapping[str, Any]) -> dict[str, float]:
    """
    >>> accuracy_of({"eval/pass_at_1": 0.5, "eval/source/easy/pass_at_1": 0.9, "eval/set/train_easy/pass_at_4": 1.0,
    ...              "eval/tokens": 7, "step": 3})
    {'pass_at_1': 0.5, 'easy/pass_at_1': 0.9, 'train_easy/pass_at_4': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        short = name.removeprefix("eval/").removeprefix("source/").removeprefix("set/")
        if name.startswith("eval/") and short.endswith(("pass_at_1", "pass_at_4")):
            found[short] = round(value, 5)
    return found


def collect(name: str, comparison: Path) -> str:
    """Adds the finished runs of a comparison to a file of curves; a run that is there already is kept as it is.
    Raises ValueError where there is none."""
    marks = sorted(comparison.glob("runs/*/comparison.json"))
    if not marks:
        raise ValueError(
            f"{comparison} holds no finished run of a comparison; name the --out of `ar3po compare-algorithms`."
        )
    path = RESULTS / f"{name}.jsonl"
    known = {(run.variant, run.seed): run for run in read_runs(name)}
    num_before = len(known)
    for mark in marks:
        variant, _, seed = mark.parent.name.rpartition("-s")
        if (variant, int(seed)) not in known:
            known[variant, int(seed)] = read_run(mark.parent, variant, int(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(known[key])) for key in sorted(known)]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return f"{path}: {len(known)} runs, {len(known) - num_before} of them new"


def read_runs(name: str) -> list[Run]:
    path = RESULTS / f"{name}.jsonl"
    if not path.is_file():
        return []
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        Run(
            variant=run["variant"],
            seed=run["seed"],
            points=tuple(Evaluated(**point) for point in run["points"]),
        )
        for run in found
    ]


def prepare(task: str) -> None:
    """Raises FileNotFoundError where tools/make_tiny_model.py has not made the task yet."""
    cache = ROOT / ".cache" / task
    out = cache / "study"
    out.mkdir(exist_ok=True)
    held_out = read_prompts(cache / "heldout.jsonl")
    write_prompts(out / "heldout.jsonl", ({**row, "source": row["difficulty"]} for row in held_out))
    train = read_prompts(cache / "train.jsonl")
    sets: dict[str, Any] = {}
    for third in THIRDS:
        rows = [row for row in train if row["difficulty"] == third]
        step = max(len(rows) // TRAINED, 1)
        file = out / f"train_{third}.jsonl"
        write_prompts(file, rows[::step][:TRAINED])
        sets[f"train_{third}"] = {"path": str(file.relative_to(ROOT)), "samples": 4}
    (out / "suite.yaml").write_text(json.dumps({"sets": sets}, indent=1) + "\n", "utf-8")
    print(f"{out}: {len(held_out)} held-out prompts, suite of {', '.join(sets)}")


def read_prompts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_prompts(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def curve_of(run: Run, name: str = "pass_at_1") -> RunCurve:
    """Of one of its accuracies, as the functions of a comparison want it."""
    points = [
        Point(
            step=at.step,
            accuracy=at.accuracy[name],
            responses=at.responses,
            tokens=at.tokens,
            seconds=at.seconds,
        )
        for at in run.points
    ]
    none = costs_of([])
    return RunCurve(
        points=tuple(points), spent={}, costs=none, late_costs=none, steps=(), num_steps=0
    )


def accuracy_at(run: Run, responses: float, name: str = "pass_at_1") -> float:
    """On the straight line between evaluations; at the last one where the run ends before."""
    found = curves.accuracy_at(curve_of(run, name), "responses", responses)
    return run.points[-1].accuracy[name] if found is None else found


def spent_until(run: Run, target: float, unit: Axis = "responses") -> tuple[float, float]:
    """Between which ends lies what the run had spent when pass@1 first reached the target."""
    spent = curves.spent_until(curve_of(run), unit, target)
    return spent.low, spent.high


# Stage one: the winners.


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


# Stage two: the tables.

TARGETS: Mapping[str, float] = {"tiny_sum": 0.60, "tiny_sum_core": 0.40}
BUDGETS: Mapping[str, int] = {"tiny_sum": 3000, "tiny_sum_core": 4500, "tiny_sum_wide": 6000}
BASELINES = ("grpo", "dapo", "ar3po")


def target_of(task: str) -> float:
    """Of the wide task what GRPO's best setting had after 2,000 responses in stage one, rounded down to a hundredth."""
    if task in TARGETS:
        return TARGETS[task]
    tuning = read_runs(f"tuning_{task}")
    best = next(s for s in score_settings(tuning) if s.family == "grpo")
    reached = fmean(accuracy_at(run, 2000) for run in tuning if run.variant == best.name)
    return math.floor(reached * 100) / 100


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The runs of stage two of a task that every arm has finished, by arm, seeds in order."""

    task: str
    runs: Mapping[str, Sequence[Run]]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in next(iter(self.runs.values()))]

    def of_families(self, families: Sequence[str]) -> list[str]:
        return [arm for arm in self.runs if arm.split("_")[0] in families]

    def cheapest(self, families: Sequence[str]) -> str:
        """The fewest responses to the target, the mean of logarithms; who never crosses counts with all it spent."""
        target = target_of(self.task)

        def cost(arm: str) -> float:
            return fmean(math.log(max(spent_until(r, target)[0], 1.0)) for r in self.runs[arm])

        return min(self.of_families(families), key=cost)

    def spent(self, arm: str, unit: Axis) -> list[tuple[float, float]]:
        return [spent_until(run, target_of(self.task), unit) for run in self.runs[arm]]

    def accuracies(self, arm: str, part: float, name: str) -> list[float]:
        return [accuracy_at(run, BUDGETS[self.task] * part, name) for run in self.runs[arm]]


def read_arms(task: str) -> Arms | None:
    runs = read_runs(task)
    names = sorted(
        {run.variant for run in runs}, key=lambda name: (FAMILIES.index(name.split("_")[0]), name)
    )
    whole = (
        set.intersection(*({r.seed for r in runs if r.variant == n} for n in names))
        if names
        else ()
    )
    if not whole:
        return None
    return Arms(
        task=task,
        runs={
            n: sorted((r for r in runs if r.variant == n and r.seed in whole), key=lambda r: r.seed)
            for n in names
        },
    )


def tell_table(arms: Arms) -> str:
    names = list(arms.runs)
    rows = [["", *names]]
    for part in (0.2, 0.4, 0.5, 0.6, 0.8, 1.0):
        label = f"pass@1 at {BUDGETS[arms.task] * part:,.0f} responses"
        rows.append([label, *(show_mean(arms.accuracies(n, part, "pass_at_1")) for n in names)])
    for name in ("pass_at_4", *(f"{third}/pass_at_1" for third in THIRDS), "easy/pass_at_4"):
        for part, when in ((0.5, "half"), (1.0, "end")):
            rows.append(
                [f"{name}, {when}", *(show_mean(arms.accuracies(n, part, name)) for n in names)]
            )
    for name in (f"train_{third}/pass_at_1" for third in THIRDS):
        rows.append([f"{name}, end", *(show_mean(arms.accuracies(n, 1.0, name)) for n in names)])
    rows.append(["entropy, half", *(show_entropy(arms.runs[n], 0.5) for n in names)])
    rows.append(["entropy, end", *(show_entropy(arms.runs[n], 1.0) for n in names)])
    target = target_of(arms.task)
    rows.append(
        [f"responses to {target:.2f}", *(show_spent(arms.spent(n, "responses")) for n in names)]
    )
    rows.append(
        [
            f"seconds of steps to {target:.2f}",
            *(show_spent(arms.spent(n, "seconds")) for n in names),
        ]
    )
    rows.append(
        [
            "seconds of steps in all",
            *(show_mean([r.points[-1].seconds for r in arms.runs[n]], 0) for n in names),
        ]
    )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def tell_verdict(arms: Arms) -> str:
    """The factor of the rules, and what must not be lost for it."""
    ours, theirs = arms.cheapest(["history"]), arms.cheapest(BASELINES)
    factor = bounded_ratio(arms.spent(theirs, "responses"), arms.spent(ours, "responses"))
    lines = [f"best history arm {ours}, best baseline {theirs}, seeds {arms.seeds}"]
    if factor is None:
        lines.append("factor: not known from either side")
    else:
        ends = [factor.ratio.low, factor.ratio.high]
        said = "" if ends[0] is None or ends[1] is None else f" ({ends[0]:.2f} to {ends[1]:.2f})"
        lines.append(f"factor {factor.side} {factor.ratio.mean:.2f}{said}")
    for name in ("pass_at_1", "pass_at_4", "easy/pass_at_1", "easy/pass_at_4"):
        for part in (0.5, 1.0):
            ours_at, theirs_at = (arms.accuracies(arm, part, name) for arm in (ours, theirs))
            change = paired_difference(ours_at, theirs_at)
            assert change is not None
            lines.append(
                f"{name} at {part:.0%}: {change.mean:+.3f} ± {change.half_width or math.nan:.3f}"
            )
    return "\n".join(f"- {line}" for line in lines)


def show_mean(values: Sequence[float], digits: int = 3) -> str:
    interval = t_interval(values)
    assert interval is not None
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.mean:.{digits}f}{spread}"


def show_spent(spent: Sequence[tuple[float, float]]) -> str:
    """
    >>> show_spent([(100.0, 100.0), (300.0, math.inf)])
    '≥ 200 (1/2)'
    """
    crossed = sum(math.isfinite(high) for _, high in spent)
    mark = "" if crossed == len(spent) else "≥ "
    return f"{mark}{fmean(low for low, _ in spent):,.0f} ({crossed}/{len(spent)})"


def show_entropy(runs: Sequence[Run], part: float) -> str:
    """Of the evaluation nearest to that part of the run."""
    values: list[float] = []
    for run in runs:
        wanted = run.points[-1].responses * part
        nearest = min(run.points[1:], key=lambda p: abs(p.responses - wanted))
        if nearest.entropy is not None:
            values.append(nearest.entropy)
    return f"{fmean(values):.3f}" if values else "-"


def tell_results(task: str) -> str:
    arms = read_arms(task)
    if arms is None:
        return f"## {task}: no seed that every arm has finished"
    return f"## {task}, {len(arms.seeds)} seeds\n\n{tell_table(arms)}\n\n{tell_verdict(arms)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare")
    collecting = commands.add_parser("collect")
    collecting.add_argument("name", help="of the file of curves: tuning_TASK or TASK")
    collecting.add_argument("comparison", type=Path, metavar="DIR")
    commands.add_parser("winners")
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        for task in TASKS:
            prepare(task)
    elif arguments.command == "collect":
        try:
            print(collect(arguments.name, arguments.comparison))
        except ValueError as error:
            parser.error(str(error))
    else:
        tell = tell_winners if arguments.command == "winners" else tell_results
        print("\n\n".join(tell(task) for task in TASKS))


if __name__ == "__main__":
    main()
