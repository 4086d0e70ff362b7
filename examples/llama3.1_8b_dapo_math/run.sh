#!/bin/bash
# Trains Llama-3.1-8B-Instruct with AR3PO on Slurm; key=value words change the config. From the root of the repository.
set -euo pipefail
exec sbatch launch_slurm/ar3po_llama8b.sh "$@"
