"""Runs an experiment: one `ar3po train` after the other, seed by seed so that pairs are whole early, all of them on
servers that are started once.

    DIR/runs/VARIANT-sSEED/                  the run, as any other
    DIR/runs/VARIANT-sSEED/comparison.json   written when it is finished: with which words it was started
    DIR/logs/VARIANT-sSEED.log               what it said
    DIR/logs/sglang_*.log                    what the servers said

A finished run is not repeated, if its resolved config is what this comparison would run; one of another config is
refused, and one that was cut short begins anew. With a budget of responses a run is asked to stop
(AR3PO_STOP_FILE) once an evaluation at or beyond it stands in its metrics; what it does until it has stopped is left
out of the figures. A run beyond its time limit is killed with all it started.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from megatron_ar3po.comparison.curves import position_after
from megatron_ar3po.comparison.experiment import Experiment, Variant
from megatron_ar3po.comparison.identity import differing_options
from megatron_ar3po.comparison.process import Main, RunProcess
from megatron_ar3po.comparison.servers import SharedServers
from megatron_ar3po.comparison.template_date import MARK, template_date
from megatron_ar3po.config.load import to_dict
from megatron_ar3po.config.schema import Config
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.run.folder_format import CONFIG_FILE
from megatron_ar3po.train import main as train
from megatron_ar3po.wiring.layout_checks import layout_of_job

_GRACE_S = 60.0  # from the request to stop to the end of the process


def wait_a_moment() -> None:
    time.sleep(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that did not end well, and why, in one line."""

    run: str
    reason: str


def run_name(variant: Variant, seed: int) -> str:
    return f"{variant.name}-s{seed}"


def metrics_path(out: Path, variant: Variant, seed: int) -> Path:
    return out / "runs" / run_name(variant, seed) / "metrics.jsonl"


def is_finished(experiment: Experiment, out: Path, variant: Variant, seed: int) -> bool:
    """Raises ValueError when a finished run in `out` was made with another config, or is shorter than the budget."""
    folder = out / "runs" / run_name(variant, seed)
    if not (folder / MARK).is_file():
        return False
    differing = differing_options(folder / CONFIG_FILE, experiment.config_of(variant, seed))
    if differing:
        raise ValueError(
            f"{folder} was finished with another config: {'; '.join(differing)}. A comparison does not mix them: "
            "choose another --out, or delete this folder and it is run anew."
        )
    if experiment.responses and not _has_spent(folder / "metrics.jsonl", experiment.responses):
        raise ValueError(
            f"{folder} was finished before {experiment.responses} responses were generated and evaluated. Choose "
            "another --out, or delete this folder and it is run anew."
        )
    return True


def check_runs(
    experiment: Experiment, out: Path, *, read_data: Callable[[Config], None] | None = None
) -> None:
    """Before the first server starts: what a run that is still to be done would be refused for, prompts and ground
    truths included. Each variant is looked at once, and the prompts once for all variants that read the same. Raises
    ValueError with the variant's name. `read_data`: another `check_data`."""
    from megatron_ar3po.wiring.start_checks import check_data, check_start  # slow to import

    read: set[str] = set()
    for variant in experiment.variants:
        todo = [s for s in experiment.seeds if not is_finished(experiment, out, variant, s)]
        if not todo:
            continue
        config = experiment.config_of(variant, todo[0])
        try:
            check_start(config, layout_of_job(config, world_size=1))
            if (prompts := _what_prompts_depend_on(config)) not in read:
                (read_data or check_data)(config)
                read.add(prompts)
        except ValueError as error:
            raise ValueError(f"variant {variant.name}: {error}") from error


def _what_prompts_depend_on(config: Config) -> str:
    """More than they do: left out is what a step does with its prompts, and what a run writes."""
    said = to_dict(config)
    for section in ("actor", "checkpoint", "observability", "reuse", "run"):
        del said[section]
    for option in ("num_stages", "responses_per_stage", "stage_plan", "stage_rule"):
        del said["rollout"][option]
    return json.dumps(said, sort_keys=True, default=str)


class ServerWords(Protocol):
    """Servers for the runs: what `SharedServers` promises."""

    def words_for(self, config: Config) -> list[str]: ...

    def discard(self) -> None: ...


def run_all(
    experiment: Experiment,
    out: Path,
    *,
    is_quiet: bool = False,
    main: Main = train,
    servers: ServerWords | None = None,
    wait: Callable[[], None] = wait_a_moment,
) -> list[Failure]:
    """Trains what `out` does not hold yet. A failed run does not end the others; it is in the answer. `main`: what a
    run calls with the words of its command line, in a process of its own. `wait`: between two looks at a run."""
    todo = [(variant, seed) for seed in experiment.seeds for variant in experiment.variants]
    failures: list[Failure] = []
    bar = Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(stderr=True),
        disable=is_quiet,
    )
    shared = servers or SharedServers(out / "logs", report=bar.console.print)
    with ExitStack() as stack:
        stack.callback(shared.discard)
        stack.enter_context(bar)
        task = bar.add_task("runs", total=len(todo), facts="")
        for variant, seed in todo:
            if not is_finished(experiment, out, variant, seed):
                bar.update(task, facts=run_name(variant, seed))
                reason = _run_one(experiment, out, variant, seed, shared, main, wait)
                if reason:
                    shared.discard()
                    failures.append(Failure(run=run_name(variant, seed), reason=reason))
            bar.advance(task)
    return failures


def _run_one(
    experiment: Experiment,
    out: Path,
    variant: Variant,
    seed: int,
    servers: ServerWords,
    main: Main,
    wait: Callable[[], None],
) -> str:
    """Why the run is of no use; empty when it is finished."""
    name = run_name(variant, seed)
    folder, stop = out / "runs" / name, out / "logs" / f"{name}.stop"
    if folder.exists():
        shutil.rmtree(folder)  # ours, and without its mark: it was cut short
    stop.parent.mkdir(parents=True, exist_ok=True)
    stop.unlink(missing_ok=True)
    words = [*experiment.words_of(variant, seed), f"run.dir={folder}", f"run.name={name}"]
    config = experiment.config_of(variant, seed)
    words += servers.words_for(config)
    if not config.data.template_date:
        words.append(f"data.template_date={template_date(out)}")
    log = out / "logs" / f"{name}.log"
    log.unlink(missing_ok=True)
    process = RunProcess(
        main,
        [str(experiment.config), *words],
        log=log,
        environment={"AR3PO_STOP_FILE": str(stop)},
    )
    try:
        reason = _watch(process, folder / "metrics.jsonl", stop, experiment, wait)
    finally:
        process.end()
        stop.unlink(missing_ok=True)
    if reason:
        return f"{reason}; its log is {log}"
    mark = {"words": [*experiment.words_of(variant, seed), f"responses={experiment.responses}"]}
    (folder / MARK).write_text(json.dumps(mark, indent=1) + "\n", "utf-8")
    return ""


def _watch(
    process: RunProcess,
    metrics: Path,
    stop: Path,
    experiment: Experiment,
    wait: Callable[[], None],
) -> str:
    deadline = time.monotonic() + experiment.timeout_s
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            return f"no end within timeout_s={experiment.timeout_s:g} s"
        if not stop.exists() and _has_spent(metrics, experiment.responses):
            stop.touch()
            deadline = min(deadline, time.monotonic() + _GRACE_S)
        wait()
    if code != 0:
        return f"exit code {code}"
    if experiment.responses and not _has_spent(metrics, experiment.responses):
        return f"it ended before {experiment.responses} responses were generated and evaluated"
    return ""


def _has_spent(metrics: Path, responses: int) -> bool:
    """Whether an evaluation at or beyond the budget has been written."""
    if not responses or not metrics.is_file():
        return False
    return any(
        row.get("eval/pass_at_1") is not None and position_after(row, "responses") >= responses
        for row in read_rows(metrics)
    )
