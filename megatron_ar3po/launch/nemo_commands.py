"""`nemo ar3po train`: the recipes for those who know NeMo-Run's command line (entry-point group `nemo_run.cli`).

    nemo ar3po train --help                                          # the recipes, and what they take
    nemo ar3po train --factory ar3po_7b actor.learning_rate=2e-6 --yes
    nemo ar3po train --factory ar3po_32b run.executor=ar3po_slurm run.executor.account=rl --yes --detach

Words that name an option of ours (`section.option=value`) are read by our own loader and not by NeMo-Run's parser, so
they mean here what they mean to `ar3po train`. `run.` is a prefix of both: `run.executor` and `run.plugins` are
NeMo-Run's, an option of our section `run` is ours.

Annotations are evaluated here (no `from __future__ import annotations`): NeMo-Run shows and parses by them.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import nemo_run as run

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.launch import recipes
from megatron_ar3po.launch.code_source import choose_code, use_code
from megatron_ar3po.launch.executors import (
    DEFAULT_RETRIES,
    STOPPED_EXIT_CODE,
    local_executor,
    show_in_container,
    slurm_config,
)
from megatron_ar3po.wiring.layout_checks import check_job_layout

SECTIONS = get_type_hints(Config)


def is_own_option(word: str) -> bool:
    """
    >>> [is_own_option(word) for word in ("run.seed=7", "run.executor.nodes=2", "actor.lr=1", "config=c.yaml")]
    [True, False, True, False]
    """
    section, dot, rest = word.partition(".")
    if not dot or section not in SECTIONS:
        return False
    option = rest.partition("=")[0].partition(".")[0]
    return section != "run" or option in {field.name for field in fields(SECTIONS["run"])}


@dataclass(kw_only=True)
class TrainContext(run.cli.RunContext):
    """NeMo-Run's context, with our options taken out of its words."""

    def cli_execute(self, fn: Callable, args: list[str], entrypoint_type: Any = "task") -> None:
        self._own_words = [word for word in args if is_own_option(word)]
        theirs = [word for word in args if not is_own_option(word)]
        super().cli_execute(fn, theirs, entrypoint_type)

    def parse_fn(self, fn: Any, args: list[str], **default_kwargs: Any) -> run.Partial[Any]:
        partial = super().parse_fn(fn, args, **default_kwargs)
        partial.overrides = [*(getattr(partial, "overrides", None) or []), *self._own_words]
        return partial


@run.cli.entrypoint(
    namespace="ar3po", name="train", type="experiment", run_ctx_cls=TrainContext,
    help="Train with AR3PO, GRPO or DAPO: --factory RECIPE, or config=FILE, then section.option=value",
)  # fmt: skip
def train(
    ctx: run.cli.RunContext,
    config: str,
    overrides: list[str] = [],  # noqa: B006 (NeMo-Run reads the default, nobody changes it)
    nproc_per_node: int = 8,
    gpus_per_node: int = 8,
    workdir: str = "",
    code: str = "here",
    python: str = "",
    retries: int = DEFAULT_RETRIES,
) -> None:
    """One run as an experiment: on this machine, or where run.executor says.

    Args:
        config: a YAML file.
        overrides: section.option=value; those on the command line come behind.
        nproc_per_node: ranks on each node.
        gpus_per_node: GPUs that must answer on each; 0: a CPU run.
        workdir: where relative paths start on the nodes; empty: this folder.
        code: here, git, files or image: which copy of the package the nodes run.
        python: on the nodes; empty: python3 in a container, this one else.
        retries: requeues of a Slurm job.
    """
    executor, file = ctx.executor or local_executor(), str(Path(config).resolve())
    loaded = load_config([file], overrides)
    check_job_layout(
        loaded,
        num_nodes=getattr(executor, "nodes", 1),
        ranks_per_node=nproc_per_node,
        gpus_per_node=gpus_per_node,
        config_file=file,
    )
    folder, elsewhere = workdir or str(Path.cwd()), False
    if isinstance(executor, run.SlurmExecutor):
        _check_gpus(executor, gpus_per_node)
        is_remote = isinstance(executor.tunnel, run.SSHTunnel)
        source = choose_code(code, Path(file), is_remote=is_remote)
        use_code(executor, source)
        show_in_container(executor, [folder, *source.folders])
        file, executor.retries = source.config, retries
        elsewhere = is_remote or bool(executor.container_image)
    recipe = recipes.training(
        file,
        overrides,
        nproc_per_node=nproc_per_node,
        gpus_per_node=gpus_per_node,
        stopped_exit_code=STOPPED_EXIT_CODE if isinstance(executor, run.SlurmExecutor) else 0,
        workdir=folder,
    )
    script = recipes.as_script(
        recipe, executor, python=python or ("python3" if elsewhere else sys.executable)
    )
    _start(ctx, loaded.run.name, script, executor)


def _check_gpus(executor: run.SlurmExecutor, gpus_per_node: int) -> None:
    if (executor.gpus_per_node or 0) != gpus_per_node:
        raise ValueError(
            f"run.executor.gpus_per_node={executor.gpus_per_node} asks Slurm for other nodes than gpus_per_node="
            f"{gpus_per_node} is to find; set both alike, and nproc_per_node with them."
        )


def _start(ctx: run.cli.RunContext, name: str, script: run.Script, executor: run.Executor) -> None:
    """An error where a run that was waited for did not succeed: `nemo` ends with code 1 of it."""
    ctx.executor = executor
    with run.Experiment(name) as experiment:
        experiment.add(script, executor=executor, name=name)
        if ctx.dryrun:
            experiment.dryrun(log=False)
            print(*map(recipes.describe_job, experiment.jobs))
            return
        ctx.launch(experiment)
    failed = [job.id for job in experiment.jobs if job.state.name != "SUCCEEDED"]
    if failed and not ctx.detach:
        raise RuntimeError(
            f"{', '.join(failed)} did not succeed; nemo experiment logs {experiment._id} shows why."
        )


def _for_command(recipe: Callable[..., run.Partial[int]]) -> Callable[..., run.Partial[None]]:
    """The recipe as a Partial of `train`."""

    @functools.wraps(recipe)
    def make(*args: Any, **kwargs: Any) -> run.Partial[None]:
        made = recipe(*args, **kwargs)
        return run.Partial(
            train,
            config=str(recipes.ROOT / made.config),
            overrides=[word for word in made.overrides if word != "run.resume=true"],
            nproc_per_node=made.nproc_per_node,
            gpus_per_node=made.gpus_per_node,
        )

    return make


for _recipe in recipes.RECIPES:
    run.cli.factory(_for_command(_recipe), target=train, name=_recipe.__name__)


@run.cli.factory
def ar3po_slurm() -> run.Config[run.SlurmExecutor]:
    """Our settings for a Slurm cluster: run.executor=ar3po_slurm run.executor.account=rl run.executor.nodes=4."""
    return slurm_config()


@run.cli.factory
def ar3po_local() -> run.Config[run.LocalExecutor]:
    """This machine: run.executor=ar3po_local."""
    return run.Config(run.LocalExecutor, ntasks_per_node=1)
