"""In the trainer's place, for test_runner.py: few imports, since each run of a test imports it anew."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_ar3po.config.load import load_config, to_yaml


def main(words: Sequence[str]) -> int:
    """Writes a row every 50 ms with 100 responses and an evaluation, until it is asked to stop or has 50."""
    options = dict(word.split("=", 1) for word in words[1:])
    resolved = to_yaml(load_config(words[:1], words[1:]))
    folder = Path(options["run.dir"])
    folder.mkdir(parents=True)
    (folder / "resolved_config.yaml").write_text(resolved)
    print("servers", options["servers.urls"], flush=True)
    if options["run.name"].startswith("broken"):
        return 3
    if options["run.name"].startswith("endless"):
        time.sleep(60)
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(50):
            row = {"step": step, "eval/pass_at_1": 0.5, "rollout/responses_total": 100 * step}
            print(json.dumps(row), file=file, flush=True)
            if Path(os.environ["AR3PO_STOP_FILE"]).exists():
                return 0
            time.sleep(0.05)
    return 0
