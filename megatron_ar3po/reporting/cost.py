"""`ar3po cost RUN`: what a run has spent, and what other plans of sampling would have spent in its steps."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.schema import Config
from megatron_ar3po.reporting.cost_prediction import Plan, Prediction, StepShape, predict_cost
from megatron_ar3po.reporting.visits import VisitReader
from megatron_ar3po.rollout.ledger_file import stream_ledger
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_format
from megatron_ar3po.sampling_cost import NOTHING, SamplingCost, Spent, cost_of

_ABOUT = """\
What a run has spent, and what GRPO(n), DAPO(n) and AR3PO(stages x responses) would have spent in as many steps of as
many prompts, predicted from the outcomes in its ledger, with 95% intervals.

  ar3po cost runs/NAME
  ar3po cost runs/NAME --plans grpo:16,dapo:16,ar3po:4x4
"""
_PLAN = re.compile(r"(grpo|dapo|ar3po|history):(\d+)(?:x(\d+))?")

ASSUMPTIONS = (
    "The policy of each step stays the one that the run had: another plan would have trained it on other groups.",
    "The responses of a prompt in one step are independent, and each is as long as the prompt's mean was in that step.",
    "DAPO fills as many steps with as many mixed groups, from prompts like those that the run drew; its steps find "
    "mixed groups at the rate of some hundred prompts around them.",
    "Nothing is cancelled, aborted or drawn again, and every response gets a verdict.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    run: str
    own: str  # the run's own plan
    steps: int
    prompts: int  # drawn, in all steps
    left_out: int  # of them without outcomes that tell something
    spent: Spent
    classes: dict[str, Spent]
    graded: Spent  # of what was spent: what the predictions are to be held against
    predictions: tuple[Prediction, ...]


def add_cost_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "cost", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument(
        "--plans",
        default="",
        metavar="PLAN,...",
        help="as grpo:8, dapo:8, history:1 or ar3po:2x4; default: with the run's most responses for a prompt",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(command=cost_command)


def cost_command(arguments: argparse.Namespace) -> int:
    plans = [parse_plan(word) for word in arguments.plans.split(",") if word]
    report = report_cost(arguments.run, plans)
    if arguments.json:
        print(json.dumps({**asdict(report), "assumptions": ASSUMPTIONS}))
    else:
        print_cost(report)
    return 0


def parse_plan(word: str) -> Plan:
    """
    >>> parse_plan("ar3po:2x4").sizes, parse_plan("dapo:8").sizes
    ((4, 4), (8,))
    """
    match = _PLAN.fullmatch(word.strip())
    sizes: tuple[int, ...] = ()
    if match:
        sizes = (int(match[3]),) * int(match[2]) if match[3] else (int(match[2]),)
    if not match or (match[3] and match[1] != "ar3po") or not all(sizes) or not sizes:
        raise ValueError(
            f"--plans: {word!r} is no plan; write grpo:8, dapo:8, history:1 (responses of a prompt) or ar3po:2x4 "
            "(stages x responses of a stage)."
        )
    return Plan(cast("Any", match[1]), sizes)


def report_cost(folder: Path, plans: Sequence[Plan] = ()) -> CostReport:
    """Raises ValueError for a folder that is no run, and for a run whose outcomes tell nothing of other plans."""
    config = read_config(folder)
    reader = VisitReader(config.rollout.stage_sizes)
    cost = cost_of(reader.pass_on(stream_ledger(folder / "ledger")))
    visits = reader.visits
    own = own_plan(config)
    shape = step_shape(config)
    return CostReport(
        run=str(folder),
        own=own.name,
        steps=visits.num_steps,
        prompts=len(visits) + visits.left_out,
        left_out=visits.left_out,
        spent=cost.total,
        classes={name: spent for name, spent in cost.classes.items() if spent != NOTHING},
        graded=sum_graded(cost),
        predictions=tuple(predict_cost(visits, p, shape) for p in plans or default_plans(own)),
    )


def read_config(folder: Path) -> Config:
    """Of a run whose outcomes can be told apart by stage."""
    check_format(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder} holds no {CONFIG_FILE}; name a run's folder, such as runs/NAME."
        )
    config = load_config([folder / CONFIG_FILE])
    rollout = config.rollout
    if rollout.cancel_solved:
        raise ValueError(
            f"{folder} was sampled with rollout.cancel_solved=true: a stage ended with its first correct response, so "
            "that its outcomes are no independent draws. Predict from a run without it."
        )
    if rollout.stage_rule != "fixed":
        raise ValueError(
            f"{folder} was sampled with rollout.stage_rule={rollout.stage_rule}: its ledger does not say how large "
            "each stage was. Predict from a run with rollout.stage_rule=fixed."
        )
    return config


def own_plan(config: Config) -> Plan:
    sizes = config.rollout.stage_sizes
    if config.algorithm.dynamic_sampling:
        return Plan("dapo", sizes)
    if config.algorithm.advantage == "history" and len(sizes) == 1:
        return Plan("history", sizes)
    return Plan("grpo" if len(sizes) == 1 else "ar3po", sizes)


def step_shape(config: Config) -> StepShape:
    algorithm, prompts = config.algorithm, config.rollout.prompts_per_step
    return StepShape(
        prompts_per_step=prompts,
        is_dynamic=algorithm.dynamic_sampling,
        prompts_per_round=algorithm.prompts_per_round or prompts,
        max_rounds=algorithm.max_sampling_rounds,
    )


def default_plans(own: Plan) -> list[Plan]:
    """Those that give a prompt at most as many responses as the run did. Of one response no group is made.

    >>> [plan.name for plan in default_plans(Plan("grpo", (8,)))]
    ['GRPO(8)', 'DAPO(8)', 'AR3PO(2x4)', 'AR3PO(4x2)']
    >>> [plan.name for plan in default_plans(Plan("history", (1,)))]
    ['HISTORY(1)']
    """
    most = sum(own.sizes)
    if most < 2:
        return [own]
    plans = [Plan("grpo", (most,)), Plan("dapo", (most,))]
    plans += [Plan("ar3po", (most // s,) * s) for s in (2, 4) if most % s == 0]
    return plans if own in plans else [*plans, own]


def sum_graded(cost: SamplingCost) -> Spent:
    return sum((cost.classes.get(name, NOTHING) for name in ("kept", "discarded")), NOTHING)


def print_cost(report: CostReport, console: Console | None = None) -> None:
    console = console or Console()
    console.print(table_of(report))
    for line in notes_of(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def table_of(report: CostReport) -> Table:
    table = Table(
        title=f"{report.steps} steps, {report.prompts:,} prompts drawn", box=SIMPLE, padding=(0, 1)
    )
    for header in ("", "responses", "95% interval", "ratio", "tokens", "95% interval"):
        table.add_column(header, justify="right" if header else "left")
    for name, spent in (("spent", report.spent), *_class_rows(report)):
        table.add_row(name, f"{spent.responses:,}", "", "", f"{spent.tokens:,}", "")
    table.add_section()
    for p in report.predictions:
        table.add_row(
            f"{p.plan} *" if p.plan == report.own else p.plan,
            show_range(p.low, p.high),
            show_interval(*p.interval),
            _ratio(p, report.graded.responses),
            f"{p.tokens:,.0f}",
            show_interval(*p.tokens_interval),
        )
    return table


def _class_rows(report: CostReport) -> list[tuple[str, Spent]]:
    if len(report.classes) < 2:
        return []
    return [(f"  {name}", spent) for name, spent in report.classes.items()]


def notes_of(report: CostReport) -> list[str]:
    lines = [
        f"*: the plan of {report.run} itself; what chance gave it is among the figures",
        "ratio: to the responses of the run that were graded, kept or discarded",
    ]
    open_ended = [p.plan for p in report.predictions if p.high > p.low]
    if open_ended:
        lines.append(
            f"{', '.join(open_ended)}: from bound to bound; {report.own} saw too few responses of some prompts for an "
            "estimate"
        )
    if report.left_out:
        lines.append(
            f"{report.left_out:,} prompts had no outcome to tell from and count as the others"
        )
    return [*lines, "", "Assumed:", *(f"- {line}" for line in ASSUMPTIONS)]


def show_range(low: float, high: float) -> str:
    return f"{low:,.0f}" if high - low < 0.5 else f"{low:,.0f} to {high:,.0f}"


def show_interval(low: float, high: float) -> str:
    return "exactly" if high - low < 0.5 else f"{low:,.0f} to {high:,.0f}"


def _ratio(p: Prediction, graded: int) -> str:
    if not graded:
        return "-"
    low, high = f"{p.low / graded:.2f}", f"{p.high / graded:.2f}"
    return low if low == high else f"{low} to {high}"
