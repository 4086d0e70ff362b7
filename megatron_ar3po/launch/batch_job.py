"""`ar3po launch run-dir CONFIG [key=value ...]`: what follows from the config for a job of launch_slurm/, before it
starts anything: the run's folder, whether its run is complete, and whether layout, nodes and time limit can work.

launch.sh asks it inside a job, and before that on a login node (`bash launch_slurm/ar3po_7b.sh key=value ...`).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from megatron_ar3po.config.at_resume import AtResume
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import expand_home
from megatron_ar3po.config.schema import Config
from megatron_ar3po.folder_owner import NAME as OWNER_NOTE
from megatron_ar3po.folder_owner import STALE_AFTER_S, living_owner
from megatron_ar3po.launch.sbatch_options import (
    SbatchOptions,
    check_signal_reaches_script,
    check_warning,
    read_sbatch_options,
    warning_of,
)
from megatron_ar3po.run.folder import find_finished
from megatron_ar3po.run.folder_format import check_format
from megatron_ar3po.run.resume_comparison import compare_with_run
from megatron_ar3po.wiring.layout_checks import check_job_layout

TASK = "%a"  # in words and folders: the number of an array's task, as in Slurm's own names of files
_GPUS_OF_A_NODE = 8
_LOOK_AGAIN_S, _MARGIN_S = 0.5, 10.0


def add_run_dir_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run-dir",
        help="the folder that a job of launch_slurm/ writes, as a job asks for it",
        description="Prints the run's folder and, where its run is complete, DONE on a second line. Refuses what a "
        "job of launch_slurm/ could not work with.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--run-dir", default="", metavar="DIR", help="the variable RUN_DIR")
    parser.add_argument("--algorithm", default="", help="the variable ALGORITHM")
    parser.add_argument("--suffix", default="", help="behind the name of a folder nobody has named")
    parser.add_argument("--array-task", default="", metavar="N", help="SLURM_ARRAY_TASK_ID")
    parser.add_argument("--script", type=Path, help="the batch script, for its #SBATCH lines")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="a word given to sbatch"
    )
    parser.add_argument("--nodes", type=int, default=0, help="of the job [the script's]")
    parser.add_argument("--nproc-per-node", type=int, help="ranks on each node [its GPUs]")
    parser.add_argument("--gpus-per-node", type=int, help="0: a CPU run [--nproc-per-node]")
    parser.add_argument("--time-limit", default="", help="of the job [the script's]")
    parser.set_defaults(command=run_dir_command)


def run_dir_command(arguments: argparse.Namespace) -> int:
    options = SbatchOptions()
    if arguments.script is not None and (arguments.script.exists() or not arguments.nodes):
        # In a job's container the script is not there: it lies in slurmd's spool.
        options = read_sbatch_options(arguments.script, arguments.sbatch, os.environ)
    _check_time(options, time_limit=arguments.time_limit)
    task = arguments.array_task or options.first_array_task
    folder = run_dir_of_job(
        arguments.config,
        arguments.overrides,
        run_dir=arguments.run_dir,
        suffix=arguments.suffix,
        array_task=task,
    )
    words = [word.replace(TASK, task) if task else word for word in arguments.overrides]
    config = load_config([arguments.config], [*words, f"run.dir={folder}", "run.resume=true"])
    _check_algorithm(config, arguments.algorithm)
    if arguments.script is not None or arguments.nodes:
        _check_layout(config, options, arguments)
    if "SLURM_JOB_ID" in os.environ:  # whoever only asks may submit it behind the owner's
        check_owner_of_folder(folder)
    print(folder)
    if is_complete(config):
        print("DONE")
    return 0


def run_dir_of_job(
    config_file: str | Path,
    words: Sequence[str],
    *,
    run_dir: str = "",
    suffix: str = "",
    array_task: str = "",
) -> Path:
    """The folder that a job's run writes: RUN_DIR, or run.dir, or runs/ALGORITHM_NAME of the loaded config. A task of
    an array has its own: where the words do not keep the tasks apart, its number stands behind. Raises ValueError."""
    if not array_task:
        return _folder_of_words(config_file, words, run_dir=run_dir, suffix=suffix)
    if not any(TASK in text for text in words):
        raise ValueError(
            f"--array starts tasks that would all train the same; write {TASK} for the task's number, as in "
            f"run.seed={TASK}, or, for one long run in several jobs, use sbatch --dependency=singleton instead."
        )

    def folder_of(task: str) -> Path:
        of_task = [word.replace(TASK, task) for word in words]
        stated = run_dir.replace(TASK, task)
        return _folder_of_words(config_file, of_task, run_dir=stated, suffix=suffix)

    folder = folder_of(array_task)
    is_shared = folder == folder_of(f"{int(array_task) + 1}")
    return folder.with_name(f"{folder.name}_{array_task}") if is_shared else folder


def _folder_of_words(
    config_file: str | Path, words: Sequence[str], *, run_dir: str, suffix: str
) -> Path:
    config = load_config([config_file], words)
    options = [word.partition("=")[0] for word in words]
    if "run.resume" in options and not config.run.resume:
        raise ValueError(
            "run.resume=false: a job that is requeued has to go on with its own run; leave it out, and give a new run "
            "another RUN_DIR or run.name."
        )
    stated = _absolute(run_dir) if run_dir else None
    in_words = _absolute(config.run.dir) if "run.dir" in options and config.run.dir else None
    if stated and in_words and stated != in_words:
        raise ValueError(
            f"RUN_DIR={run_dir} and run.dir={config.run.dir} name two folders for one run; leave out one of them."
        )
    name = f"runs/{config.algorithm.name}_{config.run.name}{suffix}"
    return stated or in_words or _absolute(config.run.dir or name)


def _absolute(folder: str) -> Path:
    return Path(os.path.realpath(expand_home(folder)))


def is_complete(config: Config) -> bool:
    """Whether a job with it would find its run DONE. Raises ValueError where the run in its folder, complete or not,
    is one of another config."""
    check_format(config.run.path)
    comparison = compare_with_run(config, [], datetime.now(timezone.utc))
    if find_finished(config) is None:
        return False
    others = [c.describe() for c in comparison.changes if c.at_resume is AtResume.WARN]
    if others:
        raise ValueError(
            f"run.dir={config.run.path} is DONE, with another config ({'; '.join(others)}), so nothing would be "
            "trained; set back what was, or give this run another RUN_DIR or run.name."
        )
    return True


def _check_time(options: SbatchOptions, *, time_limit: str) -> None:
    """On a login node all is known that sbatch will see. In a job `--signal` of sbatch's own words is not: there only a
    variable is sure, and what the script says is worth a line."""
    if not options.signal:
        return
    is_sure = not time_limit or "SBATCH_SIGNAL" in os.environ
    _, warn_s = warning_of(options.signal)
    try:
        if is_sure:
            check_signal_reaches_script(options.signal)
        check_warning(time_limit or options.time, warn_s, f"--signal={options.signal}")
    except ValueError as error:
        if is_sure:
            raise
        print(f"warning: {error}", file=sys.stderr)


def _check_algorithm(config: Config, stated: str) -> None:
    if stated and stated != config.algorithm.name:
        raise ValueError(
            f"ALGORITHM={stated} and algorithm.name={config.algorithm.name} name two; leave out one of them."
        )


def check_owner_of_folder(folder: Path, *, stale_after_s: float = STALE_AFTER_S) -> None:
    """The trainer will ask the same, and claim it; this is known before a node is looked at. A heartbeat shows within
    seconds. An owner without one (its job was killed a moment ago) is waited for until it counts as gone, so that a
    chain of jobs goes on. Raises ValueError."""
    note = folder / OWNER_NOTE
    beat, give_up = _last_beat(note), time.monotonic() + stale_after_s + _MARGIN_S
    is_told = False
    while (owner := living_owner(note, stale_after_s=stale_after_s)) is not None:
        if _last_beat(note) != beat or time.monotonic() > give_up:
            raise ValueError(
                f"run.dir={folder} has an owner (its {OWNER_NOTE}): {owner.describe()}; let that one end (sbatch "
                "--dependency=singleton waits for it), or give this run another RUN_DIR or run.name."
            )
        if not is_told:
            is_told = True
            print(
                f"run.dir={folder}: its owner is {owner.describe()}; looking for its heartbeat, for at most "
                f"{stale_after_s:g} s",
                file=sys.stderr,
            )
        time.sleep(_LOOK_AGAIN_S)


def _last_beat(note: Path) -> float:
    return note.stat().st_mtime if note.exists() else 0.0


def _check_layout(config: Config, options: SbatchOptions, arguments: argparse.Namespace) -> None:
    nodes = arguments.nodes or options.num_nodes
    there = options.num_gpus_per_node
    ranks = arguments.nproc_per_node or there or _GPUS_OF_A_NODE
    gpus = ranks if arguments.gpus_per_node is None else arguments.gpus_per_node
    layout = check_job_layout(
        config,
        num_nodes=nodes,
        ranks_per_node=ranks,
        # In a job Slurm says how many there are; sbatch may have been told of others than the script.
        gpus_per_node=min(gpus, there) if there and not arguments.nodes else gpus,
        config_file=arguments.config,
    )
    print(f"{layout.describe()} fits {nodes} node{'s' * (nodes > 1)}", file=sys.stderr)
