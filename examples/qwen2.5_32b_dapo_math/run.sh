#!/bin/bash
# Trains Qwen2.5-32B with AR3PO on Slurm; key=value words change the config. From the root of the repository.
set -euo pipefail
exec sbatch launch_slurm/ar3po_32b.sh "$@"
