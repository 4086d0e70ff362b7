"""Where a NeMo-Run experiment runs: here or on a Slurm cluster. NeMo-Run is an extra; only `launch/` imports it.

The same settings are a `run.Config` for NeMo-Run's command line (`run.executor=ar3po_slurm`) and an executor for code.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import cast

import fiddle
import nemo_run as run

from megatron_ar3po.launch.arguments import JOB_PORT_EXPRESSION

# A stopped run has saved and must be started again. NeMo-Run requeues a job only when it ends non-zero.
STOPPED_EXIT_CODE = 75
DEFAULT_RETRIES = 3


def local_executor(*, env_vars: Mapping[str, str] | None = None) -> run.LocalExecutor:
    """One process on this machine; it starts torchrun itself, so NeMo-Run's launchers stay off."""
    return run.LocalExecutor(ntasks_per_node=1, env_vars=dict(env_vars or {}))


def slurm_config(
    *,
    account: str = "",
    partition: str = "",
    qos: str = "",
    reservation: str = "",
    nodes: int = 1,
    gpus_per_node: int = 8,
    time: str = "24:00:00",
    warn_s: int = 600,
    container_image: str = "",
    container_mounts: Sequence[str] = (),
    env_vars: Mapping[str, str] | None = None,
    sbatch_options: Mapping[str, str] | None = None,
    srun_args: Sequence[str] = (),
    tunnel: run.Config[run.SSHTunnel] | None = None,
) -> run.Config[run.SlurmExecutor]:
    """One task a node, whole nodes, USR1 `warn_s` seconds before the time limit.

    Values of `env_vars` are quoted. `sbatch_options` become further #SBATCH lines, under sbatch's own names;
    `srun_args` stand behind ours, so that of two equal ones theirs counts. Without a `tunnel` it is to be used on a
    login node. Nothing is packaged: the code and the runs lie on a folder that all nodes share (`launch.code_source`
    packages it)."""
    ours = ["--wait=600", "--cpu-bind=none"]  # beside NeMo-Run's own --kill-on-bad-exit=1
    more = {**({"reservation": reservation} if reservation else {}), **(sbatch_options or {})}
    quoted = {name: shlex.quote(value) for name, value in (env_vars or {}).items()}
    return run.Config(
        run.SlurmExecutor,
        account=account,
        partition=partition or None,
        qos=qos or None,
        nodes=nodes,
        ntasks_per_node=1,
        gpus_per_node=gpus_per_node,
        time=time,
        mem="0",
        exclusive=True,
        signal=f"USR1@{warn_s}",
        container_image=container_image or None,
        container_mounts=list(container_mounts),
        additional_parameters=more or None,
        srun_args=[*ours, *srun_args],
        setup_lines=f"export MASTER_ADDR=$head_node MASTER_PORT={JOB_PORT_EXPRESSION}",
        env_vars={"PYTHONUNBUFFERED": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1", **quoted},
        packager=run.Config(run.Packager),
        tunnel=tunnel or run.Config(run.LocalTunnel, job_dir=""),
        dependency_type="afterany",
    )


def slurm_executor(
    *,
    account: str = "",
    partition: str = "",
    qos: str = "",
    reservation: str = "",
    nodes: int = 1,
    gpus_per_node: int = 8,
    time: str = "24:00:00",
    warn_s: int = 600,
    retries: int = DEFAULT_RETRIES,
    container_image: str = "",
    container_mounts: Sequence[str] = (),
    env_vars: Mapping[str, str] | None = None,
    sbatch_options: Mapping[str, str] | None = None,
    srun_args: Sequence[str] = (),
    tunnel: run.Config[run.SSHTunnel] | None = None,
) -> run.SlurmExecutor:
    """`slurm_config`, built, with at most `retries` requeues: NeMo-Run requeues a job that ended non-zero, be it
    stopped and saved (STOPPED_EXIT_CODE) or crashed."""
    built = fiddle.build(
        slurm_config(
            account=account,
            partition=partition,
            qos=qos,
            reservation=reservation,
            nodes=nodes,
            gpus_per_node=gpus_per_node,
            time=time,
            warn_s=warn_s,
            container_image=container_image,
            container_mounts=container_mounts,
            env_vars=env_vars,
            sbatch_options=sbatch_options,
            srun_args=srun_args,
            tunnel=tunnel,
        )
    )
    executor = cast(run.SlurmExecutor, built)
    executor.retries = retries
    return executor


def show_in_container(executor: run.SlurmExecutor, folders: Sequence[str]) -> None:
    """Where there is a container: these folders are in it under their own paths, and the home folder is not."""
    if not executor.container_image:
        return
    mounts = [f"{folder}:{folder}" for folder in folders]
    there = [mount for mount in executor.container_mounts if mount not in mounts]
    executor.container_mounts = [*dict.fromkeys(mounts), *there]
    executor.srun_args = [*(executor.srun_args or []), "--no-container-mount-home"]


def ssh_tunnel(address: str, *, job_dir: str, identity: str = "") -> run.Config[run.SSHTunnel]:
    """To a login node, as USER@HOST or USER@HOST:PORT; scripts and logs go into `job_dir` there, which the nodes
    share."""
    user, at, rest = address.partition("@")
    host, colon, port = rest.partition(":")
    if not (user and at and host) or (colon and not port.isdecimal()):
        raise ValueError(
            f"--ssh {address} names no user and host; write it as USER@HOST or USER@HOST:PORT, the login node of the "
            "cluster."
        )
    return run.Config(
        run.SSHTunnel,
        host=host,
        user=user,
        port=int(port) if port else None,
        job_dir=job_dir,
        identity=identity or None,
    )
