#!/bin/bash
# The one launch wrapper. Sourced by the scripts beside it inside a Slurm job; `launch [key=value ...]` runs the job.
#
# What the caller may set (environment of sbatch):
#   ALGORITHM         ar3po (default), grpo, dapo or history
#   RUN_DIR           the run's folder, shared by all nodes    [runs/ALGORITHM_NAME under AR3PO_HOME]
#   CONFIG            another config file
#   MODEL_PATH, DATA_PATH, EVAL_PATH                           [what the config says]
#   CONTAINER_IMAGE   a pyxis image (path or registry#name); unset: bare metal
#   CONTAINER_MOUNTS  further SRC:DST mounts, comma-joined; the code and RUN_DIR are mounted already
#   PYTHON            the interpreter on the nodes             [python3 in a container, .venv's or python3 else]
#   NPROC_PER_NODE    ranks on each node                       [the node's GPUs]
#   GPUS_PER_NODE     GPUs that must answer; 0: a CPU run      [NPROC_PER_NODE]
#   MAX_RESTARTS      requeues of one job, whatever their cause [20]
#
# How a run ends (files in RUN_DIR, written by the trainer, decide):
#   DONE              exit 0; a later job with the same RUN_DIR ends at once
#   STOPPED           after USR1 to this script (Slurm's warning before the time limit): requeued and resumed;
#                     after TERM (scancel JOB, a pre-emption with a grace time), USR1 to the step (scancel
#                     --signal=USR1 JOB.0) or run.max_seconds: exit 0, a later job goes on. Of TERM only if step and
#                     save end within Slurm's KillWait (30 s by default) or GraceTime, after which it kills
#   a node fails      its exit code, the first one that is not 0; Slurm does not start it again

die() {
  echo "[launch] $*" >&2
  exit 2
}

# On a login node: the layout against the nodes that the script asks for, so that no allocation is waited for in vain.
check_layout() {
  local nodes gpus
  nodes=$(sed -n 's/^#SBATCH --nodes=//p' "$0")
  gpus=$(sed -n 's/^#SBATCH --gpus-per-node=//p' "$0")
  cd "$AR3PO_HOME" || die "AR3PO_HOME=$AR3PO_HOME is no folder here"
  PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo "$AR3PO_HOME/.venv/bin/python" || echo python3)}
  "$PYTHON" -m megatron_ar3po.launch.preflight --layout-of-nodes="${nodes:-1}" \
    --gpus-per-node="${GPUS_PER_NODE:-${NPROC_PER_NODE:-${gpus:-8}}}" \
    --nproc-per-node="${NPROC_PER_NODE:-${gpus:-8}}" "$CONFIG" algorithm.name="${ALGORITHM:-ar3po}" "$@" || exit
  die "not inside a Slurm job; submit it: sbatch $0"
}

prepare() {
  RESTART=${SLURM_RESTART_COUNT:-0}
  ALGORITHM=${ALGORITHM:-ar3po}
  case "$ALGORITHM" in
    ar3po | grpo | dapo | history) ;;
    *) die "ALGORITHM=$ALGORITHM is unknown; use ar3po, grpo, dapo or history" ;;
  esac
  cd "$AR3PO_HOME" || die "AR3PO_HOME=$AR3PO_HOME is no folder on $(hostname); put the code on the shared file system"
  [ -f "$CONFIG" ] || die "CONFIG=$CONFIG is no file under $AR3PO_HOME"
  RUN_DIR=$(realpath -m "${RUN_DIR:-runs/${ALGORITHM}_$RUN_NAME}")
  MAX_RESTARTS=${MAX_RESTARTS:-20}
  NPROC_PER_NODE=${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}
  GPUS_PER_NODE=${GPUS_PER_NODE:-$NPROC_PER_NODE}
  [ "$GPUS_PER_NODE" -le "${SLURM_GPUS_ON_NODE:-$GPUS_PER_NODE}" ] ||
    die "GPUS_PER_NODE=$GPUS_PER_NODE, but Slurm gave $SLURM_GPUS_ON_NODE a node; sinfo -o '%n %G' shows what nodes have"

  MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  # Below the ephemeral ports (32768 and up), and another one after a requeue.
  MASTER_PORT=$((20000 + (SLURM_JOB_ID * 7 + RESTART * 101) % 10000))
  AR3PO_STOP_FILE=$RUN_DIR/stop.$SLURM_JOB_ID.$RESTART
  LOG_DIR=$RUN_DIR/logs/job_$SLURM_JOB_ID/restart_$RESTART
  mkdir -p "$LOG_DIR" || die "RUN_DIR=$RUN_DIR cannot be written on $(hostname)"

  local canary=$RUN_DIR/.canary.$SLURM_JOB_ID.$RESTART
  echo "$SLURM_JOB_ID.$RESTART.$RANDOM" >"$canary"
  AR3PO_CANARY=$canary=$(cat "$canary")
  export MASTER_ADDR MASTER_PORT AR3PO_STOP_FILE AR3PO_CANARY
  export PYTHONUNBUFFERED=1
  # Megatron's overlap of communication and compute wants one queue on Hopper and Ampere; Blackwell does not need it.
  export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
}

# Fills SRUN_ARGS; in a container pyxis takes one comma-joined list of mounts (of two lists the last would win).
srun_arguments() {
  # One task a node, torchrun inside. --wait: the other nodes of a finished run end together with it.
  SRUN_ARGS=(--ntasks-per-node=1 --kill-on-bad-exit=1 --wait=600 --cpu-bind=none
    --output="$LOG_DIR/node_%n.log" --open-mode=append)
  if [ -z "${CONTAINER_IMAGE:-}" ]; then
    PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo "$AR3PO_HOME/.venv/bin/python" || echo python3)}
    return
  fi
  srun --help 2>&1 | grep -q -e --container-image ||
    die "CONTAINER_IMAGE is set, but this Slurm has no pyxis; install it, or unset CONTAINER_IMAGE for bare metal"
  case "$CONTAINER_IMAGE" in
    /*) [ -r "$CONTAINER_IMAGE" ] || die "CONTAINER_IMAGE=$CONTAINER_IMAGE cannot be read on $(hostname)" ;;
  esac
  local mounts=$AR3PO_HOME:$AR3PO_HOME,$RUN_DIR:$RUN_DIR${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
  SRUN_ARGS+=(--container-image="$CONTAINER_IMAGE" --container-mounts="$mounts"
    --no-container-mount-home --container-workdir="$AR3PO_HOME")
  PYTHON=${PYTHON:-python3}
}

# A file, not a signal to the step: see megatron_ar3po/launch/node.py. USR1 is Slurm's warning before the time limit,
# which asks for a requeue; TERM is somebody's wish to end the job.
ask_to_stop() {
  [ "$1" = TERM ] || WARNED=1
  echo "[launch] $(date -Is) $1: asking the trainer to stop after this step and save"
  : >"$AR3PO_STOP_FILE"
}

launch() {
  [ -n "${SLURM_JOB_ID:-}" ] || check_layout "$@"
  prepare
  if [ -e "$RUN_DIR/DONE" ]; then
    echo "[launch] $RUN_DIR is DONE already; choose another RUN_DIR for a new run"
    exit 0
  fi
  if [ "$RESTART" -gt "$MAX_RESTARTS" ]; then
    die "restart $RESTART is above MAX_RESTARTS=$MAX_RESTARTS; look into $RUN_DIR/logs, then submit again to go on"
  fi
  WARNED=0
  trap 'ask_to_stop USR1' USR1
  trap 'ask_to_stop TERM' TERM
  srun_arguments
  local overrides=(algorithm.name="$ALGORITHM" run.dir="$RUN_DIR" run.resume=true)
  [ -z "${MODEL_PATH:-}" ] || overrides+=(model.path="$MODEL_PATH")
  [ -z "${DATA_PATH:-}" ] || overrides+=(data.path="$DATA_PATH")
  [ -z "${EVAL_PATH:-}" ] || overrides+=(evaluation.path="$EVAL_PATH")
  rm -f "$RUN_DIR/STOPPED"
  echo "[launch] $(date -Is) job $SLURM_JOB_ID restart $RESTART: $ALGORITHM on $SLURM_JOB_NUM_NODES nodes" \
    "($SLURM_JOB_NODELIST), logs in $LOG_DIR"

  # In the background: bash runs a trap only while it waits for a child of its own.
  srun "${SRUN_ARGS[@]}" "$PYTHON" -m megatron_ar3po.launch.node \
    --nproc-per-node="$NPROC_PER_NODE" --gpus-per-node="$GPUS_PER_NODE" \
    "$CONFIG" "${overrides[@]}" "$@" &
  local srun_pid=$! code
  while :; do # `wait` returns early when the trap runs
    code=0
    wait "$srun_pid" || code=$?
    kill -0 "$srun_pid" 2>/dev/null || break
  done
  finish "$code"
}

finish() {
  local code=$1
  trap - TERM # Slurm ends this script with it when it requeues
  rm -f "${AR3PO_CANARY%%=*}" "$AR3PO_STOP_FILE"
  echo "[launch] $(date -Is) srun ended with code $code"
  if [ "$code" -eq 0 ] && [ -e "$RUN_DIR/DONE" ]; then
    echo "[launch] the run is DONE"
    exit 0
  fi
  if [ "$code" -eq 0 ] && [ -e "$RUN_DIR/STOPPED" ]; then
    if [ "$WARNED" -eq 0 ]; then
      echo "[launch] the run was stopped and is saved ($(cat "$RUN_DIR/STOPPED")); submit again to go on"
      exit 0
    fi
    if [ "$RESTART" -ge "$MAX_RESTARTS" ]; then
      die "saved, but not requeued: MAX_RESTARTS=$MAX_RESTARTS is reached; submit again to go on"
    fi
    echo "[launch] saved; requeueing"
    scontrol requeue "$SLURM_JOB_ID"
    sleep 120 # Slurm ends this script; if it ended by itself, the job would count as finished
    die "scontrol requeue did not end this job within 120 s"
  fi
  [ "$code" -ne 0 ] || code=1
  echo "[launch] the run failed (ar3po status $RUN_DIR names the ranks)" >&2
  [ ! -e "$RUN_DIR/STOPPED" ] || echo "[launch] it was saved before: $(cat "$RUN_DIR/STOPPED")" >&2
  echo "[launch] the ends of its logs:" >&2
  tail -n 60 "$LOG_DIR"/*.log >&2
  exit "$code"
}
