"""`python -m megatron_ar3po.platform.sglang_launch PARENT_PID ARGUMENTS`: one SGLang server; ARGUMENTS is a JSON object of ServerArgs.

Promises: the server and all its children are gone within seconds after the process PARENT_PID, whatever ended it,
SIGKILL too. Without a GPU the shims of `sglang_cpu` are applied first; beside one this is plain SGLang. Must be started
as the leader of its own process group, which the guard kills as a whole.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

_GUARD_INTERVAL_S = 0.5


def start_parent_guard(parent_pid: int) -> None:
    """Kills this process group once the parent is another one. Looking at the parent's number needs no pipe, whose
    other end a forked worker of the trainer could hold open long after the trainer has died."""
    if os.getpgrp() != os.getpid():
        raise ValueError(
            f"sglang_launch (pid {os.getpid()}) is not the leader of its process group {os.getpgrp()}; start it in a "
            "session of its own (start_new_session=True), so that it can be ended as a whole."
        )

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_GUARD_INTERVAL_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-guard", daemon=True).start()


def main() -> None:
    # A cluster's warning reaches every process of a job step; the trainer still needs its server to end the step.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    start_parent_guard(int(sys.argv[1]))
    arguments = json.loads(sys.argv[2])

    import torch

    if not torch.cuda.is_available():
        from megatron_ar3po.platform import sglang_cpu

        sglang_cpu.apply_shims(seeded=arguments.get("enable_deterministic_inference", False))

    from sglang.launch_server import run_server
    from sglang.srt.server_args import ServerArgs
    from sglang.srt.utils import kill_process_tree

    try:
        run_server(ServerArgs(**arguments))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
