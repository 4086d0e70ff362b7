#!/bin/bash
# Qwen2.5-32B on four nodes of eight 80 GB GPUs.
#
#   sbatch launch_slurm/ar3po_32b.sh [key=value ...]             AR3PO
#   ALGORITHM=grpo sbatch launch_slurm/ar3po_32b.sh              GRPO; dapo: DAPO; history: one response a prompt
#
# From the root of the repository (or with AR3PO_HOME set). launch_slurm/launch.sh lists the other variables.
#SBATCH --job-name=ar3po_32b
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@1200
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

AR3PO_HOME=${AR3PO_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
CONFIG=${CONFIG:-examples/qwen2.5_32b_dapo_math/config.yaml}
wrapper=$AR3PO_HOME/launch_slurm/launch.sh
[ -f "$wrapper" ] || { echo "no $wrapper; submit from the root of the repository, or set AR3PO_HOME" >&2; exit 2; }
# shellcheck source=launch_slurm/launch.sh
source "$wrapper"
launch "$@"
