"""A process that rolls out is killed by SIGKILL in the middle, with fakes for servers and verifier: nothing that was
graded is lost. The death of a node is not exercised; `test_append_file` counts what is brought to the disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from fakes.response_logs import SeededEngine, contents, make_controller, open_log, step_prompts

ANSWERED = 9

ROLLOUT = f"""
import asyncio, sys
from pathlib import Path
from fakes.response_logs import SeededEngine, make_controller, open_log, step_prompts

class Stuck(SeededEngine):
    async def generate(self, request):
        generation = await super().generate(request)
        if len(self.finished) > {ANSWERED}:
            print("stuck", flush=True)
            await asyncio.sleep(600)
        return generation

controller = make_controller(Stuck(), open_log(Path(sys.argv[1]), sync_s=600), num_slots=1)
controller.collect(step_prompts(6), step=1, policy_version=0)
"""


def test_what_a_killed_process_was_answered_is_not_drawn_again(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", ROLLOUT, str(tmp_path / "log")],
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "stuck\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    whole, engine = SeededEngine(), SeededEngine()
    unkilled = make_controller(whole).collect(step_prompts(6), step=1, policy_version=0)
    again = make_controller(engine, open_log(tmp_path / "log")).collect(
        step_prompts(6), step=1, policy_version=0
    )
    assert contents(again.groups) == contents(unkilled.groups)
    assert len(engine.requests) == len(whole.requests) - ANSWERED
