#!/bin/bash
# Trains Qwen2.5-7B with AR3PO on Slurm; key=value words change the config. From the root of the repository.
set -euo pipefail
exec sbatch launch_slurm/ar3po_7b.sh "$@"
