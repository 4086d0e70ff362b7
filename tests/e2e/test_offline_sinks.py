"""W&B offline and MLflow with a local store say no word to the network: not by an error report, not by telemetry.

Every way out that the libraries know leads to a listener here (a proxy, and their own addresses); it must stay silent.
That it hears what goes out is shown with W&B online.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.trainer_runs import ROOT, TIME_LIMIT_S

LOG_A_ROW = """
import sys
from contextlib import ExitStack
from megatron_ar3po.config.load import load_config
from megatron_ar3po.wiring.metric_sinks import make_sinks
folder, limit, *words = sys.argv[1:]
config = load_config([], [f"run.dir={folder}", *words])
config.run.path.mkdir()
with ExitStack() as stack:
    sinks = make_sinks(config, stack, last_step=-1)
    sinks._close_limit_s = float(limit)
    (config.run.path / "metrics.jsonl").write_text('{"step": 0, "reward/mean": 0.5}\\n')
    sinks.notice_a_row()
"""


class Listener:
    """Counts who connects, and hangs up."""

    def __init__(self) -> None:
        self.num_calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            self.num_calls += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    heard = Listener()
    yield heard
    heard.close()


def log_a_row(folder: Path, listener: Listener, *words: str, close_limit_s: str = "120") -> str:
    here = f"http://127.0.0.1:{listener.port}"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), here)
    proxies |= {name.upper(): here for name in proxies}
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("WANDB", "MLFLOW"))}
    environment = {**kept, **proxies, "no_proxy": "", "NO_PROXY": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LOG_A_ROW, str(folder / "run"), close_limit_s, *words],
        env={**environment, "WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": f"{here}/api"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / "run/sinks.json").read_text()


def test_offline_nothing_goes_out(tmp_path, listener):
    words = ["observability.wandb=offline", f"observability.mlflow=sqlite:///{tmp_path}/mlflow.db"]
    notes = log_a_row(tmp_path, listener, *words)
    assert notes.count('"sent": 0') == 3  # TensorBoard too
    assert listener.num_calls == 0


def test_the_listener_hears_what_does_go_out(tmp_path, listener):
    """Online, W&B asks for its account first."""
    with pytest.raises(FileNotFoundError):  # nothing could be sent: there is no note
        log_a_row(
            tmp_path,
            listener,
            "observability.wandb=online",
            "observability.tensorboard=false",
            close_limit_s="20",
        )
    assert listener.num_calls > 0
