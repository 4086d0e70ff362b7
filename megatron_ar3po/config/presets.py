"""What `algorithm.name` sets when neither a file nor the command line says otherwise."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "ar3po": {
        "rollout": {"num_stages": 2, "responses_per_stage": 4},
        "reuse": {"enabled": True},
        "algorithm": {"dynamic_sampling": False},
    },
    "grpo": {
        "rollout": {"num_stages": 1, "responses_per_stage": 8},
        "reuse": {"enabled": False},
        "algorithm": {"dynamic_sampling": False},
    },
    "dapo": {
        "rollout": {"num_stages": 1, "responses_per_stage": 8},
        "reuse": {"enabled": False},
        "algorithm": {"dynamic_sampling": True},
    },
    "history": {
        "rollout": {"num_stages": 1, "responses_per_stage": 1},
        "reuse": {"enabled": False, "replay_frac": 0.5},
        "algorithm": {"dynamic_sampling": False, "advantage": "history"},
    },
}
