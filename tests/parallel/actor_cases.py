"""The actor under real process groups (torchrun_cases.py says how it is started)."""

from __future__ import annotations

import sys
from pathlib import Path

import actor_checkpoint_cases
import actor_offload_cases
import actor_publish_cases
import actor_saved_state_cases
import actor_update_cases
import actor_weight_cases
from torchrun_cases import Cases

CASES = Cases(
    actor_update_cases.CASES,
    actor_checkpoint_cases.CASES,
    actor_offload_cases.CASES,
    actor_saved_state_cases.CASES,
    actor_publish_cases.CASES,
    actor_weight_cases.CASES,
)

if __name__ == "__main__":
    CASES.run(Path(sys.argv[1]), sys.argv[2:])
