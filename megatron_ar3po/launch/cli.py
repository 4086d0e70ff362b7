"""`ar3po launch local|slurm CONFIG`: a config, or a sweep over it, as one NeMo-Run experiment.

    ar3po launch local examples/tiny_sum/config.yaml run.num_steps=5
    ar3po launch slurm examples/qwen2.5_7b_dapo_math/config.yaml --account rl --vary run.seed=1,2,3 --dryrun

Runs of a sweep are independent and start together on Slurm; with --chain, and always on one machine, each waits for the
one before it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.schema import Config
from megatron_ar3po.launch.batch_job import add_run_dir_parser
from megatron_ar3po.launch.failed_node import add_failed_node_parser
from megatron_ar3po.launch.sbatch_options import check_warning
from megatron_ar3po.wiring.layout_checks import check_job_layout

_EXTRA_MISSING = (
    "ar3po launch needs NeMo-Run, which is not installed ({error}); install it with "
    "pip install 'megatron_ar3po[launch]', or use launch_slurm/*.sh and ar3po train, which need nothing more."
)


def add_launch_parser(subparsers: Any) -> None:
    launch = subparsers.add_parser("launch")
    where = launch.add_subparsers(metavar="WHERE", required=True)
    local = where.add_parser("local", help="on this machine, one after another")
    slurm = where.add_parser("slurm", help="as Slurm jobs, from a login node")
    for parser in (local, slurm):
        parser.add_argument("config", metavar="CONFIG", help="a YAML file")
        parser.add_argument("overrides", nargs="*", metavar="key=value")
        parser.add_argument(
            "--vary",
            action="append",
            default=[],
            metavar="OPTION=A,B",
            help="one run for each value; repeat it for every combination",
        )
        parser.add_argument(
            "--nproc-per-node", type=int, help="ranks on each node [its GPUs, or 1]"
        )
        parser.add_argument("--dryrun", action="store_true", help="print what would be started")
    local.add_argument("--gpus-per-node", type=int, default=0, help="0: a CPU run [0]")
    local.set_defaults(command=launch_command, where="local", chain=True)

    _add_slurm_arguments(slurm)
    slurm.set_defaults(command=launch_command, where="slurm")
    add_run_dir_parser(where)
    add_failed_node_parser(where)


def _add_slurm_arguments(slurm: argparse.ArgumentParser) -> None:
    slurm.add_argument("--account", default="", help="who pays")
    slurm.add_argument("--partition", default="")
    slurm.add_argument("--qos", default="")
    slurm.add_argument("--reservation", default="")
    slurm.add_argument("--nodes", type=int, default=1)
    slurm.add_argument("--gpus-per-node", type=int, default=8, help="0: a CPU run [8]")
    slurm.add_argument("--time", default="24:00:00", metavar="HH:MM:SS")
    slurm.add_argument(
        "--warn-s", type=int, default=600, help="stop and save so long before the time limit [600]"
    )
    slurm.add_argument("--retries", type=int, default=3, help="requeues of one run [3]")
    slurm.add_argument("--container-image", default="", help="a pyxis image; empty: bare metal")
    slurm.add_argument("--container-mount", action="append", default=[], metavar="SRC:DST")
    slurm.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable on the nodes"
    )
    slurm.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="another option of sbatch, as in --sbatch constraint=h200",
    )
    slurm.add_argument(
        "--srun",
        action="append",
        default=[],
        metavar="ARGUMENT",
        help="another argument of srun, as in --srun=--mpi=none",
    )
    slurm.add_argument(
        "--python", default="", help="on the nodes [python3 in a container or with --ssh]"
    )
    slurm.add_argument(
        "--code",
        choices=("here", "git", "files", "image"),
        default="here",
        help="this folder, a snapshot of its HEAD or of its files, or the image's copy [here]",
    )
    slurm.add_argument(
        "--ssh", default="", metavar="USER@HOST[:PORT]", help="submit through a login node"
    )
    slurm.add_argument("--ssh-key", default="", metavar="FILE", help="a private key for it")
    slurm.add_argument(
        "--workdir", default="", help="where relative paths start on the nodes [this folder]"
    )
    slurm.add_argument("--chain", action="store_true", help="each run waits for the one before it")
    slurm.add_argument("--wait", action="store_true", help="follow the jobs to their end")


def launch_command(arguments: argparse.Namespace) -> int:
    # Beside the runs instead of in the home folder. Not called "nemo_run": without a container NeMo-Run replaces
    # "/nemo_run" in every path of its batch script. The variable is read when nemo_run is imported.
    home = os.environ.setdefault("NEMORUN_HOME", str(Path.cwd() / "runs" / "nemo"))
    try:
        import nemo_run as run
    except ImportError as error:
        raise ValueError(_EXTRA_MISSING.format(error=error)) from error
    from megatron_ar3po.launch.code_source import choose_code, use_code
    from megatron_ar3po.launch.executors import show_in_container
    from megatron_ar3po.launch.recipes import as_script, describe_job, training, variants

    if arguments.where == "slurm":
        check_warning(arguments.time, arguments.warn_s, f"--warn-s={arguments.warn_s}")
    config = parse_path(arguments.config).resolve()
    base = load_config([config], arguments.overrides).run.name  # also refuses what cannot start
    with run.Experiment(base, base_dir=home) as experiment:
        folders = dict[Path, str]()
        for variant in variants(base, arguments.vary):
            executor, file = _executor(arguments), config
            if arguments.where == "slurm":
                code = choose_code(arguments.code, config, is_remote=bool(arguments.ssh))
                use_code(executor, code)
                show_in_container(executor, [_workdir(arguments), *code.folders])
                file = code.config
            recipe = training(
                file,
                [*arguments.overrides, f"run.name={variant.name}", *variant.overrides],
                nproc_per_node=arguments.nproc_per_node or max(1, arguments.gpus_per_node),
                gpus_per_node=arguments.gpus_per_node,
                stopped_exit_code=_stopped_exit_code(arguments),
                workdir=_workdir(arguments),
            )
            run_config = load_config([config], recipe.overrides)
            _check_layout(config, run_config, arguments)
            _check_own_folder(run_config.run.path, variant.name, folders)
            script = as_script(recipe, executor, python=_python(arguments))
            experiment.add(script, executor=executor, name=variant.name)
        follow = arguments.where == "local" or arguments.wait
        if arguments.dryrun:
            experiment.dryrun(log=False, delete_exp_dir=arguments.where == "local")
            for job in experiment.jobs:
                print(describe_job(job))
            return 0
        experiment.run(sequential=arguments.chain, detach=not follow, tail_logs=follow)
    # Leaving the experiment is what waits for its jobs.
    return 0 if not follow or _have_all_succeeded(experiment) else 1


def _check_own_folder(folder: Path, name: str, taken: dict[Path, str]) -> None:
    """Runs of a sweep would find each other's; `taken` learns the folder."""
    if folder in taken:
        raise ValueError(
            f"--vary makes runs {taken[folder]} and {name}, which would both write run.dir={folder}; leave run.dir "
            "out, so that each writes runs/NAME, or vary it too."
        )
    taken[folder] = name


def _check_layout(config_file: Path, config: Config, arguments: argparse.Namespace) -> None:
    """Before it is submitted: an allocation would be waited for, and lost."""
    check_job_layout(
        config,
        num_nodes=getattr(arguments, "nodes", 1),
        ranks_per_node=arguments.nproc_per_node or max(1, arguments.gpus_per_node),
        gpus_per_node=arguments.gpus_per_node,
        config_file=config_file,
    )


def _executor(arguments: argparse.Namespace) -> Any:
    from megatron_ar3po.launch.executors import local_executor, slurm_executor, ssh_tunnel

    if arguments.where == "local":
        return local_executor()
    tunnel = None
    if arguments.ssh:
        job_dir = f"{_workdir(arguments)}/runs/nemo"
        tunnel = ssh_tunnel(arguments.ssh, job_dir=job_dir, identity=arguments.ssh_key)
    return slurm_executor(
        account=arguments.account,
        partition=arguments.partition,
        qos=arguments.qos,
        reservation=arguments.reservation,
        nodes=arguments.nodes,
        gpus_per_node=arguments.gpus_per_node,
        time=arguments.time,
        warn_s=arguments.warn_s,
        retries=arguments.retries,
        container_image=arguments.container_image,
        container_mounts=arguments.container_mount,
        env_vars=_read_pairs("--env", arguments.env),
        sbatch_options=_read_pairs("--sbatch", arguments.sbatch),
        srun_args=arguments.srun,
        tunnel=tunnel,
    )


def _workdir(arguments: argparse.Namespace) -> str:
    """On the nodes. Behind --ssh they see no folder of this machine, so theirs has to be named."""
    workdir = getattr(arguments, "workdir", "")
    if getattr(arguments, "ssh", "") and not workdir:
        raise ValueError(
            f"--ssh {arguments.ssh} submits to nodes that do not see {Path.cwd()}; name their shared folder, in which "
            "relative paths start and runs are written: --workdir /shared/me."
        )
    return workdir or str(Path.cwd())


def _read_pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """
    >>> _read_pairs("--env", ["NCCL_DEBUG=INFO", "NOTE=a = b"])
    {'NCCL_DEBUG': 'INFO', 'NOTE': 'a = b'}
    """
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise ValueError(f"{option} {word} must be of the form NAME=VALUE.")
        pairs[name] = value
    return pairs


def _stopped_exit_code(arguments: argparse.Namespace) -> int:
    from megatron_ar3po.launch.executors import STOPPED_EXIT_CODE

    return STOPPED_EXIT_CODE if arguments.where == "slurm" else 0


def _python(arguments: argparse.Namespace) -> str:
    if arguments.where == "local":
        return sys.executable
    elsewhere = arguments.container_image or arguments.ssh
    return arguments.python or ("python3" if elsewhere else sys.executable)


def _have_all_succeeded(experiment: Any) -> bool:
    return all(job.state.name == "SUCCEEDED" for job in experiment.jobs)
