"""NeMo-Run recipes: a shipped example as a `run.Partial` that can be edited, swept and run.

    with run.Experiment("seeds") as experiment:
        for seed in (1, 2, 3):
            executor = slurm_executor(account="rl", nodes=1)
            recipe = ar3po_7b(name=f"seed_{seed}", overrides=[f"run.seed={seed}"])
            experiment.add(as_script(recipe, executor), executor=executor, name=f"seed_{seed}")
        experiment.run(sequential=False, detach=True)

A recipe is a Partial of `launch.node.run_node`, the function that every launcher ends in. It can be run as it is;
`as_script` makes it a plain command, so that the nodes need no NeMo-Run. `launch.nemo_commands` shows them to `nemo`.

Annotations are evaluated here (no `from __future__ import annotations`): NeMo-Run parses a recipe's arguments by them.
"""

import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nemo_run as run

from megatron_ar3po.launch.arguments import NODE_MODULE, node_words
from megatron_ar3po.launch.node import run_node

ROOT = Path(__file__).resolve().parents[2]


def training(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    nproc_per_node: int = 8,
    gpus_per_node: int = 8,
    stopped_exit_code: int = 0,
    workdir: str | Path = ROOT,
) -> run.Partial[int]:
    """Any config as a recipe. Relative paths in it start at `workdir`."""
    return run.Partial(
        run_node,
        config=str(config),
        overrides=["run.resume=true", *overrides],
        nproc_per_node=nproc_per_node,
        gpus_per_node=gpus_per_node,
        stopped_exit_code=stopped_exit_code,
        workdir=str(workdir),
    )


def _example(folder: str, name: str, algorithm: str, overrides: Sequence[str]) -> run.Partial[int]:
    words = [f"run.name={name}", f"algorithm.name={algorithm}", *overrides]
    return training(f"examples/{folder}/config.yaml", words)


@run.cli.factory(target=run_node)
def ar3po_32b(
    name: str = "ar3po_qwen2.5_32b", algorithm: str = "ar3po", overrides: Sequence[str] = ()
) -> run.Partial[int]:
    """Qwen2.5-32B on DAPO-Math: four nodes of eight 80 GB GPUs."""
    return _example("qwen2.5_32b_dapo_math", name, algorithm, overrides)


@run.cli.factory(target=run_node)
def ar3po_7b(
    name: str = "ar3po_qwen2.5_7b", algorithm: str = "ar3po", overrides: Sequence[str] = ()
) -> run.Partial[int]:
    """Qwen2.5-7B on DAPO-Math: one node of eight 80 GB GPUs."""
    return _example("qwen2.5_7b_dapo_math", name, algorithm, overrides)


@run.cli.factory(target=run_node)
def ar3po_llama8b(
    name: str = "ar3po_llama3.1_8b", algorithm: str = "ar3po", overrides: Sequence[str] = ()
) -> run.Partial[int]:
    """Llama-3.1-8B on DAPO-Math: one node of eight 80 GB GPUs."""
    return _example("llama3.1_8b_dapo_math", name, algorithm, overrides)


RECIPES = (ar3po_32b, ar3po_7b, ar3po_llama8b)


def as_script(
    recipe: run.Partial[int], executor: run.Executor, *, python: str = "python3"
) -> run.Script:
    """The recipe as the command every node runs."""
    words = node_words(
        recipe.config,
        recipe.overrides,
        nproc_per_node=recipe.nproc_per_node,
        gpus_per_node=recipe.gpus_per_node,
        stopped_exit_code=recipe.stopped_exit_code,
        workdir=recipe.workdir,
    )
    if isinstance(executor, run.SlurmExecutor):  # its words go into a batch script as they are
        words = [shlex.quote(word) for word in words]
    return run.Script(path=NODE_MODULE, m=True, entrypoint=python, args=words)


def describe_job(job: Any) -> str:
    """What would be started, to be copied: NeMo-Run's own dry run indents it and wraps it at the terminal's width."""
    plan = str(job._dryrun_info)
    head, found, script = plan.partition("#!/bin/bash")
    if not found:  # on this machine: its task is one command
        return f"# {job.id}\n{shlex.join([job.task.entrypoint, '-m', job.task.path, *job.task.args])}\n"
    how = head.split("$")[0].strip()
    return f"# {job.id}: save what follows as FILE, then: {how} FILE\n{found}{script}\n"


@dataclass(frozen=True, slots=True)
class Variant:
    """One run of an experiment."""

    name: str
    overrides: tuple[str, ...]


def variants(base: str, sweeps: Sequence[str]) -> Iterator[Variant]:
    """The runs of a sweep, each with a name of its own: every combination of the values given.

    >>> [v.name for v in variants("tiny", ["run.seed=1,2", "algorithm.name=ar3po,grpo"])]
    ['tiny_seed_1_name_ar3po', 'tiny_seed_1_name_grpo', 'tiny_seed_2_name_ar3po', 'tiny_seed_2_name_grpo']
    """
    axes: list[list[tuple[str, str]]] = []
    for sweep in sweeps:
        option, equals, values = sweep.partition("=")
        if not equals or not values:
            raise ValueError(
                f"--vary {sweep} must be of the form option=value,value as in --vary run.seed=1,2,3."
            )
        axes.append([(option, value) for value in values.split(",")])
    for combination in itertools.product(*axes):
        name = "_".join(
            [base, *(f"{option.rpartition('.')[2]}_{value}" for option, value in combination)]
        )
        yield Variant(name, tuple(f"{option}={value}" for option, value in combination))
