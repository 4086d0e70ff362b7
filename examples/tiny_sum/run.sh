#!/usr/bin/env bash
# The example from a fresh clone: environment, model, training. More options go behind:
#   examples/tiny_sum/run.sh run.seed=1 reuse.option=detach
set -euo pipefail
cd "$(dirname "$0")/../.."
exec make train ARGS="$*"
