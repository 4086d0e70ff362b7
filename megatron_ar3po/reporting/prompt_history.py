"""`ar3po history RUN`: what each prompt has shown, step by step, from the ledger's rows alone: how the estimated pass
rates are spread as the run goes on, how often prompts were seen, which are hardest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from megatron_ar3po.algorithm.history import PromptHistory, outcome_in
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.rules import require
from megatron_ar3po.prompt_record import PromptOutcome
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.run.facts import read_facts
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_not_newer
from megatron_ar3po.types import Prompt

NUM_BINS = 10  # of pass rates
_MOST_WINDOWS = 10
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(slots=True, kw_only=True)
class PromptLine:
    """One prompt at the end of the run. `correct` of `responses` graded ones over all visits; the decayed counts and
    the pass rate that the history makes of them are those of the visit that comes."""

    prompt_id: str
    source: str
    visits: int = 0
    responses: int = 0
    correct: int = 0
    last_step: int = 0
    mean_length_tokens: float = 0.0  # of the last visit
    decayed_correct: float = 0.0
    decayed_wrong: float = 0.0
    pass_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some steps of the run. `pass_rate_bins[i]`: how many of the prompts seen so far have at its end an estimated pass
    rate from i to i + 1 tenths."""

    first_step: int
    last_step: int
    prompts: int  # distinct ones of its steps
    responses: int
    correct: int
    pass_rate_bins: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySummary:
    folder: str
    steps: int
    prompts_in_file: int | None  # None where the run does not say it
    visits: dict[int, int]  # how many prompts were seen so often
    windows: tuple[Window, ...]
    prompts: tuple[PromptLine, ...] = field(repr=False)  # the hardest first


def summarize_history(folder: Path) -> HistorySummary:
    """Raises ValueError where `folder` holds no ledger."""
    rows = [
        row
        for row in rows_of_run(folder / "ledger")
        if row.get("kind") == "prompt" and not row.get("abandoned")
    ]
    require(
        bool(rows),
        f"{folder}/ledger has no row of a prompt; name the folder of a run that has sampled, such as runs/NAME.",
    )
    by_step: dict[int, list[PromptOutcome]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(outcome_in(row))
    num_prompts = _num_prompts(folder)
    reader = _Reader(_read_options(folder), num_prompts or len({row["prompt_id"] for row in rows}))
    windows = [reader.read(by_step, steps) for steps in _windows(sorted(by_step))]
    return HistorySummary(
        folder=str(folder),
        steps=len(by_step),
        prompts_in_file=num_prompts,
        visits=reader.visits(),
        windows=tuple(windows),
        prompts=tuple(reader.prompts()),
    )


class _Reader:
    def __init__(self, options: Mapping[str, Any], num_prompts: int) -> None:
        self._weight = options["history_prior_weight"]
        self._history = PromptHistory(
            decay=options["history_decay"],
            pooled=options["history_prior"],
            half_life=options["history_half_life"],
            num_prompts=num_prompts,
        )
        self._lines: dict[str, PromptLine] = {}

    def read(self, by_step: Mapping[int, Sequence[PromptOutcome]], steps: Sequence[int]) -> Window:
        """`steps` come after those that were read before."""
        seen: set[str] = set()
        responses = correct = 0
        for step in steps:
            self._history.learn(step, by_step[step])
            for outcome in by_step[step]:
                self._add(step, outcome)
                responses += outcome.responses
                correct += outcome.correct
                seen.add(outcome.prompt_id)
        bins = [0] * NUM_BINS
        for line in self._lines.values():
            if line.responses:
                self._estimate(line)
                bins[min(NUM_BINS - 1, int(line.pass_rate * NUM_BINS))] += 1
        return Window(
            first_step=steps[0],
            last_step=steps[-1],
            prompts=len(seen),
            responses=responses,
            correct=correct,
            pass_rate_bins=tuple(bins),
        )

    def visits(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for line in self._lines.values():
            counts[line.visits] = counts.get(line.visits, 0) + 1
        return dict(sorted(counts.items()))

    def prompts(self) -> list[PromptLine]:
        """The hardest first; of equals the one that more was spent on. Without a graded response: last."""
        return sorted(
            self._lines.values(),
            key=lambda p: (not p.responses, p.pass_rate, -p.responses, p.prompt_id),
        )

    def _add(self, step: int, outcome: PromptOutcome) -> None:
        line = self._lines.setdefault(
            outcome.prompt_id, PromptLine(prompt_id=outcome.prompt_id, source=outcome.source)
        )
        line.visits += 1
        line.responses += outcome.responses
        line.correct += outcome.correct
        line.last_step = step

    def _estimate(self, line: PromptLine) -> None:
        prompt = Prompt(prompt_id=line.prompt_id, source=line.source, token_ids=(), ground_truth="")
        record = self._history.record(prompt)
        line.decayed_correct, line.decayed_wrong = record.correct, record.wrong
        line.mean_length_tokens = record.length_tokens
        solved = record.correct + self._weight * record.pooled_mean
        line.pass_rate = solved / (record.correct + record.wrong + self._weight)


def _windows(steps: Sequence[int]) -> Iterator[Sequence[int]]:
    """At most ten, of about equally many steps."""
    count = min(_MOST_WINDOWS, len(steps))
    for i in range(count):
        yield steps[len(steps) * i // count : len(steps) * (i + 1) // count]


def _read_options(folder: Path) -> dict[str, Any]:
    """Of the run, whatever version wrote it; a default where it says nothing."""
    path = folder / CONFIG_FILE
    stated: dict[str, Any] = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    options: dict[str, Any] = {}
    for section, defaults, names in (
        ("rollout", RolloutConfig(), ("history_decay", "history_half_life")),
        ("algorithm", AlgorithmConfig(), ("history_prior", "history_prior_weight")),
    ):
        for name in names:
            options[name] = stated.get(section, {}).get(name, getattr(defaults, name))
    return options


def _num_prompts(folder: Path) -> int | None:
    facts = read_facts(folder)
    said = facts.values.get("data.path (prompts)", "") if facts else ""
    return int(said.split()[0]) if said else None


def lines_of(summary: HistorySummary, *, num_hardest: int) -> Iterator[str]:
    """As it is printed."""
    seen = len(summary.prompts)
    of_all = f" of {summary.prompts_in_file}" if summary.prompts_in_file else ""
    yield f"{summary.folder}: {summary.steps} steps, {seen}{of_all} prompts seen"
    visits = ", ".join(f"{count} seen {times}x" for times, count in summary.visits.items())
    yield f"visits      {_cut(visits)}"
    yield ""
    yield "estimated pass rates of the prompts seen so far, at the end of the steps: 0 to 1 in tenths"
    yield f"{'steps':<14}{'prompts':>8}{'responses':>11}{'correct':>9}  {'0 ... 1':<12}{'0 to .1':>8}{'.9 to 1':>9}"
    for window in summary.windows:
        bins = window.pass_rate_bins
        steps = f"{window.first_step} to {window.last_step}"
        rate = window.correct / window.responses if window.responses else 0.0
        yield (
            f"{steps:<14}{window.prompts:>8}{window.responses:>11}{rate:>9.2f}  |{draw_bars(bins)}|"
            f"{bins[0]:>8}{bins[-1]:>9}"
        )
    yield ""
    yield f"the {min(num_hardest, seen)} hardest"
    yield f"{'prompt':<18}{'visits':>7}{'correct':>12}{'pass rate':>11}{'last step':>11}{'tokens':>8}  source"
    for line in summary.prompts[:num_hardest]:
        correct = f"{line.correct} of {line.responses}"
        yield (
            f"{line.prompt_id[:16]:<18}{line.visits:>7}{correct:>12}{line.pass_rate:>11.3f}"
            f"{line.last_step:>11}{line.mean_length_tokens:>8.0f}  {line.source}"
        ).rstrip()


def draw_bars(counts: Sequence[int]) -> str:
    """One character a count, as high as its share of the largest; what is there is seen.

    >>> draw_bars([0, 1, 4, 8])
    ' ▁▄█'
    """
    most = max(counts)
    return "".join(_BARS[max(1, round(8 * n / most)) if n else 0] for n in counts)


def _cut(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[:width].rpartition(",")[0] + ", ..."


def draw_figure(summary: HistorySummary, path: Path) -> None:
    """Left the spread of pass rates window by window, right how often prompts were seen."""
    import matplotlib  # slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure: Any
    figure, (spread, visits) = pyplot.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    colours = pyplot.get_cmap("RdYlGn")
    last_steps = [str(window.last_step) for window in summary.windows]
    below = [0.0] * len(last_steps)
    for i in range(NUM_BINS):
        shares = [w.pass_rate_bins[i] / max(1, sum(w.pass_rate_bins)) for w in summary.windows]
        label = f"{i / NUM_BINS:.1f} to {(i + 1) / NUM_BINS:.1f}"
        spread.bar(last_steps, shares, bottom=below, color=colours(i / (NUM_BINS - 1)), label=label)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    spread.set_xlabel("step")
    spread.set_ylabel("share of the prompts seen, by estimated pass rate")
    spread.legend(*(each[::-1] for each in spread.get_legend_handles_labels()), fontsize="x-small")
    visits.bar(list(summary.visits), list(summary.visits.values()))
    visits.set_xlabel("visits")
    visits.set_ylabel("prompts")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def add_history_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "history", description="What each prompt of a run has shown, from its ledger."
    )
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument(
        "--hardest", type=int, default=10, metavar="N", help="so many prompts; default: %(default)s"
    )
    parser.add_argument("--plot", type=parse_path, metavar="FILE.png", help="draw it as well")
    parser.add_argument("--json", action="store_true", help="for scripts: every prompt")
    parser.set_defaults(command=history_command)


def history_command(arguments: argparse.Namespace) -> int:
    check_not_newer(arguments.run)
    require(arguments.hardest >= 0, f"--hardest {arguments.hardest} must be at least 0.")
    plot: Path | None = arguments.plot
    require(
        plot is None or (plot.suffix == ".png" and plot.parent.is_dir()),
        f"--plot {plot} must be a FILE.png in a folder that is there.",
    )
    summary = summarize_history(arguments.run)
    if plot is not None:
        draw_figure(summary, plot)
    if arguments.json:
        print(json.dumps(asdict(summary)))
    else:
        print("\n".join(lines_of(summary, num_hardest=arguments.hardest)))
        if plot is not None:
            print(f"\ndrawn in {plot}")
    return 0
