#!/bin/bash
# The one launch wrapper. Sourced by the scripts beside it inside a Slurm job; `launch [key=value ...]` runs the job.
#
# What the caller may set (environment of sbatch):
#   ALGORITHM         ar3po, grpo, dapo or history             [what the config says]
#   RUN_DIR           the run's folder, shared by all nodes    [run.dir, or runs/ALGORITHM_NAME under AR3PO_HOME]
#   CONFIG            another config file
#   MODEL_PATH, DATA_PATH, EVAL_PATH                           [what the config says]
#   PROFILE           cpu: the tiny model on one CPU core a node (launch_slurm/profiles/cpu.txt), to try a script out
#   CONTAINER_IMAGE   a pyxis image (path or registry#name); unset: bare metal
#   CONTAINER_MOUNTS  further SRC:DST mounts, comma-joined; the code and RUN_DIR are mounted already
#   PYTHON            the interpreter on the nodes             [python3 in a container, .venv's or python3 else]
#   NPROC_PER_NODE    ranks on each node                       [the node's GPUs]
#   GPUS_PER_NODE     GPUs that must answer; 0: a CPU run      [NPROC_PER_NODE]
#   MAX_RESTARTS      requeues of one job, whatever their cause [20]
#   MAX_CRASH_RESTARTS  of these, how many after a crash or a hang, without the node that it names [0]
# In a job array, %a in words, RUN_DIR and CONFIG is the task's number: sbatch --array=1-3 ... run.seed=%a
#
# How a run ends (files in RUN_DIR, written by the trainer, decide):
#   DONE              exit 0; a later job with the same RUN_DIR and config ends at once
#   STOPPED           after USR1 to this script (Slurm's warning before the time limit): requeued and resumed, if a step
#                     was made since the job started (or the job is being pre-empted); else it would only do so again;
#                     after TERM (scancel JOB, a pre-emption with a grace time), USR1 to the step (scancel
#                     --signal=USR1 JOB.STEP, as its first line says) or run.max_seconds: exit 0, a later job goes on. Of TERM only if step and
#                     save end within Slurm's KillWait (30 s by default) or GraceTime, after which it kills
#   a node fails      its exit code, the first one that is not 0; not started again, but for MAX_CRASH_RESTARTS times

die() {
  echo "[launch] $*" >&2
  exit 2
}

# Outside of a job: what can be known before an allocation is waited for. Words that set no option are sbatch's.
check_on_login_node() {
  local word given=() mine=() submit
  for word in "$@"; do
    case "$word" in -*) given+=("$word") ;; *=*) mine+=("$word") ;; *) given+=("$word") ;; esac
  done
  go_home
  collect_words ${mine[@]+"${mine[@]}"}
  find_run_dir ${given[@]+"${given[@]/#/--sbatch=}"} # also refuses
  printf -v submit ' %q' ${given[@]+"${given[@]}"} "$0" ${mine[@]+"${mine[@]}"}
  die "would write $RUN_DIR; not inside a Slurm job, submit it: sbatch$submit"
}

go_home() {
  cd "$AR3PO_HOME" || die "AR3PO_HOME=$AR3PO_HOME is no folder on $(hostname); put the code on the shared file system"
  case "${ALGORITHM:-ar3po}" in
    ar3po | grpo | dapo | history) ;;
    *) die "ALGORITHM=$ALGORITHM is unknown; use ar3po, grpo, dapo or history" ;;
  esac
  HOST_PYTHON=$([ -x .venv/bin/python ] && echo "$AR3PO_HOME/.venv/bin/python" || echo python3)
  STEP=0 # of srun, the run's own
  if [ -z "${CONTAINER_IMAGE:-}" ]; then
    HOST_PYTHON=${PYTHON:-$HOST_PYTHON} PYTHON=${PYTHON:-$HOST_PYTHON}
    return
  fi
  PYTHON=${PYTHON:-python3}
  "$HOST_PYTHON" -c 'import megatron_ar3po.launch.batch_job' 2>/dev/null || STEP=1 # the question takes step 0
}

# Fills WORDS, the later before the earlier: the profile's, those of variables, the caller's.
collect_words() {
  WORDS=()
  [ -z "${PROFILE:-}" ] || read_profile
  [ -z "${ALGORITHM:-}" ] || WORDS+=(algorithm.name="$ALGORITHM")
  [ -z "${MODEL_PATH:-}" ] || WORDS+=(model.path="$MODEL_PATH")
  [ -z "${DATA_PATH:-}" ] || WORDS+=(data.path="$DATA_PATH")
  [ -z "${EVAL_PATH:-}" ] || WORDS+=(evaluation.path="$EVAL_PATH")
  WORDS+=("$@")
  CONFIG=${CONFIG//%a/${SLURM_ARRAY_TASK_ID:-%a}}
  [ -f "$CONFIG" ] || die "CONFIG=$CONFIG is no file under $AR3PO_HOME"
}

read_profile() {
  local file=launch_slurm/profiles/$PROFILE.txt line
  [ -f "$file" ] || die "PROFILE=$PROFILE is unknown; there is cpu"
  while read -r line; do
    case "$line" in '' | '#'*) ;; *) WORDS+=("$line") ;; esac
  done <"$file"
  NPROC_PER_NODE=${NPROC_PER_NODE:-1} GPUS_PER_NODE=${GPUS_PER_NODE:-0}
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
}

# Sets RUN_DIR and IS_DONE by the config, and refuses what cannot work: see `ar3po launch run-dir --help`.
find_run_dir() {
  local answer code=0
  answer=$(ask_python run-dir --script="$0" --run-dir="${RUN_DIR:-}" --algorithm="${ALGORITHM:-}" \
    --suffix="${PROFILE:+_$PROFILE}" --array-task="${SLURM_ARRAY_TASK_ID:-}" \
    ${NPROC_PER_NODE:+--nproc-per-node="$NPROC_PER_NODE"} ${GPUS_PER_NODE:+--gpus-per-node="$GPUS_PER_NODE"} \
    "$@" -- "$CONFIG" ${WORDS[@]+"${WORDS[@]}"}) || code=$?
  [ "$code" -eq 0 ] || die "refused (the line above, exit code $code); nothing was started"
  RUN_DIR=${answer%%$'\n'*}
  IS_DONE=$([ "${answer##*$'\n'}" = DONE ] && echo 1 || echo 0)
  [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || WORDS=("${WORDS[@]//%a/$SLURM_ARRAY_TASK_ID}")
}

# `ar3po launch WORDS`, on this host where its Python has what that needs, else in the container, as a step of its own.
ask_python() {
  if [ "$STEP" -eq 0 ]; then
    "$HOST_PYTHON" -m megatron_ar3po.cli launch "$@"
    return
  fi
  [ -n "${SLURM_JOB_ID:-}" ] || die "no Python here can read $CONFIG; the job asks the container's: sbatch $0"
  [ -z "${RUN_DIR:-}" ] || mkdir -p "$RUN_DIR"
  container_arguments "${RUN_DIR:-}"
  srun --nodes=1 --ntasks=1 --overlap "${CONTAINER_ARGS[@]}" "$PYTHON" -m megatron_ar3po.cli launch "$@"
}

# Fills CONTAINER_ARGS; pyxis takes one comma-joined list of mounts (of two lists the last would win).
container_arguments() {
  local folder mounts=
  case "$(srun --help 2>&1)" in # no `grep -q`, which would leave srun to die of its pipe
    *--container-image*) ;;
    *) die "CONTAINER_IMAGE is set, but this Slurm has no pyxis; install it, or unset CONTAINER_IMAGE for bare metal" ;;
  esac
  case "$CONTAINER_IMAGE" in
    /*) [ -r "$CONTAINER_IMAGE" ] || die "CONTAINER_IMAGE=$CONTAINER_IMAGE cannot be read on $(hostname)" ;;
  esac
  for folder in "$AR3PO_HOME" ${1:+"$1"}; do
    case "$folder" in *[,:]*) die "$folder cannot be mounted: a comma or colon ends a mount; name another folder" ;; esac
    mounts+=${mounts:+,}$folder:$folder
  done
  CONTAINER_ARGS=(--container-image="$CONTAINER_IMAGE" --no-container-mount-home --container-workdir="$AR3PO_HOME"
    --container-mounts="$mounts${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
}

# Nothing where the controller does not reply.
job_field() {
  scontrol -o show job "$JOB" | grep -o " $1=[^ ]*" | cut -d= -f2 || true
}

prepare() {
  # One task of an array has the array's own number as SLURM_JOB_ID, by which scontrol and scancel mean all of them.
  JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} JOB=${JOB:-$SLURM_JOB_ID}
  export SLURM_EXPORT_ENV=ALL # sbatch --export=NONE (or A=B) would keep from srun what is exported below
  RESTART=${SLURM_RESTART_COUNT:-0} BEGAN=$(date +%s)
  MAX_RESTARTS=${MAX_RESTARTS:-20}
  TIME_LIMIT=$(job_field TimeLimit)
  go_home
  collect_words "$@"
  NPROC_PER_NODE=${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}
  GPUS_PER_NODE=${GPUS_PER_NODE:-$NPROC_PER_NODE}
  [ "$GPUS_PER_NODE" -le "${SLURM_GPUS_ON_NODE:-$GPUS_PER_NODE}" ] ||
    die "GPUS_PER_NODE=$GPUS_PER_NODE, but Slurm gave $SLURM_GPUS_ON_NODE a node; sinfo -o '%n %G' shows what nodes have"
  [ -z "${CONTAINER_IMAGE:-}" ] || container_arguments "" # refuses
  find_run_dir --nodes="$SLURM_JOB_NUM_NODES" --time-limit="${TIME_LIMIT:-UNLIMITED}"

  MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  # Below the ephemeral ports (32768 and up), and another one after a requeue.
  MASTER_PORT=$((20000 + (SLURM_JOB_ID * 7 + RESTART * 101) % 10000))
  AR3PO_STOP_FILE=$RUN_DIR/stop.$SLURM_JOB_ID.$RESTART
  LOG_DIR=$RUN_DIR/logs/job_$SLURM_JOB_ID/restart_$RESTART
  export MASTER_ADDR MASTER_PORT AR3PO_STOP_FILE
  export PYTHONUNBUFFERED=1
  # Megatron's overlap of communication and compute wants one queue on Hopper and Ampere; Blackwell does not need it.
  export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
}

make_folders() {
  mkdir -p "$LOG_DIR" || die "RUN_DIR=$RUN_DIR cannot be written on $(hostname)"
  CANARY=$RUN_DIR/.canary.$SLURM_JOB_ID.$RESTART
  echo "$SLURM_JOB_ID.$RESTART.$RANDOM" >"$CANARY"
  AR3PO_CANARY=$CANARY=$(cat "$CANARY")
  export AR3PO_CANARY
}

# Fills SRUN_ARGS. One task a node, torchrun inside. --wait: the other nodes of a finished run end together with it. A
# percent sign in a path is none of srun's patterns.
srun_arguments() {
  SRUN_ARGS=(--ntasks-per-node=1 --kill-on-bad-exit=1 --wait=600 --cpu-bind=none
    --output="${LOG_DIR//%/%%}/node_%n.log" --open-mode=append)
  [ -n "${CONTAINER_IMAGE:-}" ] || return 0
  container_arguments "$RUN_DIR"
  SRUN_ARGS+=("${CONTAINER_ARGS[@]}")
}

# A file, not a signal to the step: see megatron_ar3po/launch/node.py. USR1 is Slurm's warning before the time limit,
# which asks for a requeue; TERM is somebody's wish to end the job.
ask_to_stop() {
  if [ "$1" = TERM ]; then ENDED=1; else WARNED=1; fi
  echo "[launch] $(date -Is) $1: asking the trainer to stop after this step and save"
  : >"$AR3PO_STOP_FILE"
}

launch() {
  [ -n "${SLURM_JOB_ID:-}" ] || check_on_login_node "$@"
  prepare "$@"
  if [ "$IS_DONE" -eq 1 ]; then
    echo "[launch] $RUN_DIR is DONE already; choose another RUN_DIR for a new run, or raise run.num_steps to go on"
    exit 0
  fi
  if [ "$RESTART" -gt "$MAX_RESTARTS" ]; then
    die "restart $RESTART is above MAX_RESTARTS=$MAX_RESTARTS; look into $RUN_DIR/logs, then submit again to go on"
  fi
  make_folders
  WARNED=0 ENDED=0
  trap 'ask_to_stop USR1' USR1
  trap 'ask_to_stop TERM' TERM
  srun_arguments
  echo "[launch] $(date -Is) job $SLURM_JOB_ID restart $RESTART: $RUN_DIR on $SLURM_JOB_NUM_NODES nodes" \
    "($SLURM_JOB_NODELIST), logs in $LOG_DIR; to stop and save: scancel --signal=USR1 $JOB.$STEP"

  # In the background: bash runs a trap only while it waits for a child of its own.
  srun "${SRUN_ARGS[@]}" "$PYTHON" -m megatron_ar3po.launch.node \
    --nproc-per-node="$NPROC_PER_NODE" --gpus-per-node="$GPUS_PER_NODE" \
    "$CONFIG" ${WORDS[@]+"${WORDS[@]}"} run.dir="$RUN_DIR" run.resume=true 2>"$LOG_DIR/srun.log" &
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
  rm -f "$CANARY" "$AR3PO_STOP_FILE"
  echo "[launch] $(date -Is) srun ended with code $code"
  if [ "$code" -eq 0 ] && [ -e "$RUN_DIR/DONE" ]; then
    echo "[launch] the run is DONE"
    exit 0
  fi
  if [ "$code" -eq 0 ] && [ -e "$RUN_DIR/STOPPED" ]; then
    finish_stopped
  fi
  [ "$code" -ne 0 ] || code=1
  [ "$ENDED" -eq 1 ] || [ "${MAX_CRASH_RESTARTS:-0}" -eq 0 ] || restart_without_failed_node
  echo "[launch] the run failed (ar3po status $RUN_DIR names the ranks)" >&2
  [ ! -e "$RUN_DIR/STOPPED" ] || echo "[launch] it was saved before: $(cat "$RUN_DIR/STOPPED")" >&2
  echo "[launch] the ends of its logs:" >&2
  tail -n 60 "$LOG_DIR"/*.log >&2
  exit "$code"
}

# TERM behind a warning, neither of the time limit nor for a job that pre-empts: a requeue would bring it back to life.
is_cancelled() {
  [ "$ENDED" -eq 1 ] && [ "$(job_field Reason)" != TimeLimit ] && [ "$(job_field PreemptTime)" = None ]
}

finish_stopped() {
  if [ "$WARNED" -eq 0 ] || is_cancelled; then
    echo "[launch] the run was stopped and is saved ($(cat "$RUN_DIR/STOPPED")); submit again to go on"
    exit 0
  fi
  if grep -q '"steps_made": 0[,}]' "$RUN_DIR/STOPPED" && [ "$(job_field PreemptTime)" = None ]; then
    die "saved, but not requeued: warned before the first step of this job ended, as the next would be; raise --time" \
      "(now $TIME_LIMIT), or lower the seconds of --signal, so that the start and a step fit before the warning"
  fi
  if [ "$RESTART" -ge "$MAX_RESTARTS" ]; then
    die "saved, but not requeued: MAX_RESTARTS=$MAX_RESTARTS is reached; submit again to go on"
  fi
  echo "[launch] saved; requeueing"
  requeue
}

# After a crash or a hang: once more, without the node that is to blame. Returns where it is not to be.
restart_without_failed_node() {
  local crashes=$RUN_DIR/logs/job_$SLURM_JOB_ID/crashes nodes answer code=0 count=0 node reason
  [ ! -e "$crashes" ] || count=$(wc -l <"$crashes")
  nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd,)
  answer=$(ask_python failed-node "$RUN_DIR" "$LOG_DIR" --nodes="$nodes" --began="$BEGAN" \
    --earlier="$(tail -n 1 "$crashes" 2>/dev/null | cut -d' ' -f2-)") || code=$?
  node=${answer%%$'\n'*} reason=${answer#*$'\n'}
  [ "$node" != - ] || node=
  echo "[launch] a crash${node:+ of $node}: ${reason:-of which nothing is known}" >&2
  if [ "$code" -ne 0 ] || [ "$count" -ge "$MAX_CRASH_RESTARTS" ] || [ "$RESTART" -ge "$MAX_RESTARTS" ]; then
    echo "[launch] not started again: $([ "$code" -ne 0 ] && echo "it would end so again" ||
      echo "$count of MAX_CRASH_RESTARTS=$MAX_CRASH_RESTARTS and $RESTART of MAX_RESTARTS=$MAX_RESTARTS are made")" >&2
    return 0
  fi
  printf '%s %s\n' "${node:--}" "$reason" >>"$crashes"
  leave_out "$node"
  echo "[launch] crash restart $((count + 1)) of $MAX_CRASH_RESTARTS, without ${LEFT_OUT:-leaving a node out}; requeueing"
  requeue
}

# Sets LEFT_OUT: the nodes that the next start shall not have. Where the partition has none to spare, those of before.
leave_out() {
  local before all
  before=$(job_field ExcNodeList)
  [ "$before" != "(null)" ] || before=
  LEFT_OUT=$before${1:+${before:+,}$1}
  [ -n "$1" ] || return 0
  all=$(sinfo -h -N -p "$SLURM_JOB_PARTITION" -t idle,mixed,allocated,completing -o %N | sort -u |
    grep -vxFc -f <(scontrol show hostnames "$LEFT_OUT")) || true
  [ "${all:-0}" -lt "$SLURM_JOB_NUM_NODES" ] || return 0
  echo "[launch] $SLURM_JOB_PARTITION has no node to spare for $1" >&2
  LEFT_OUT=$before
}

requeue() {
  # Slurm ends this script by TERM when it requeues; what the next start is to leave out can be said only after that.
  [ -z "${LEFT_OUT:-}" ] || trap '' TERM
  scontrol requeue "$JOB" || die "scontrol requeue failed; submit again to go on"
  if [ -n "${LEFT_OUT:-}" ]; then
    scontrol update JobId="$JOB" ExcNodeList="$LEFT_OUT" || echo "[launch] $LEFT_OUT is not left out" >&2
    exit 0
  fi
  sleep 120 # if it ended by itself before Slurm has requeued, the job would count as finished
  die "scontrol requeue did not end this job within 120 s"
}
