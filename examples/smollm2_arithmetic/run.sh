#!/usr/bin/env bash
# The example from a fresh clone: environment, model, training. More options go behind:
#   examples/smollm2_arithmetic/run.sh run.num_steps=2
set -euo pipefail
cd "$(dirname "$0")/../.."
make setup
.venv/bin/python tools/make_smollm2.py
exec env OMP_NUM_THREADS=1 .venv/bin/ar3po train examples/smollm2_arithmetic/config.yaml "$@"
