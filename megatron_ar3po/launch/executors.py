"""Where a NeMo-Run experiment runs: here or on a Slurm cluster. NeMo-Run is an extra; only `launch/` imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import nemo_run as run

from megatron_ar3po.launch.arguments import JOB_PORT_EXPRESSION

# A stopped run has saved and must be started again. NeMo-Run requeues a job only when it ends non-zero.
STOPPED_EXIT_CODE = 75


def local_executor(*, env_vars: Mapping[str, str] | None = None) -> run.LocalExecutor:
    """One process on this machine; it starts torchrun itself, so NeMo-Run's launchers stay off."""
    return run.LocalExecutor(ntasks_per_node=1, env_vars=dict(env_vars or {}))


def slurm_executor(
    *,
    account: str = "",
    partition: str = "",
    nodes: int = 1,
    gpus_per_node: int = 8,
    time: str = "24:00:00",
    warn_s: int = 600,
    retries: int = 3,
    container_image: str = "",
    container_mounts: Sequence[str] = (),
    env_vars: Mapping[str, str] | None = None,
) -> run.SlurmExecutor:
    """One task a node, whole nodes, USR1 `warn_s` seconds before the time limit, at most `retries` requeues: NeMo-Run
    requeues a job that ended non-zero, be it stopped and saved (STOPPED_EXIT_CODE) or crashed.

    To be used on a login node. Nothing is packaged: the code and the runs lie on a folder that all nodes share."""
    srun_args = ["--wait=600", "--cpu-bind=none"]  # beside NeMo-Run's own --kill-on-bad-exit=1
    if container_image:
        srun_args.append("--no-container-mount-home")
    executor = run.SlurmExecutor(
        account=account,
        partition=partition or None,
        nodes=nodes,
        ntasks_per_node=1,
        gpus_per_node=gpus_per_node,
        time=time,
        mem="0",
        exclusive=True,
        signal=f"USR1@{warn_s}",
        container_image=container_image or None,
        container_mounts=list(container_mounts),
        srun_args=srun_args,
        setup_lines=f"export MASTER_ADDR=$head_node MASTER_PORT={JOB_PORT_EXPRESSION}",
        env_vars={"PYTHONUNBUFFERED": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1", **(env_vars or {})},
        packager=run.Packager(),
        tunnel=run.LocalTunnel(job_dir=""),
        dependency_type="afterany",
    )
    executor.retries = retries
    return executor
