"""`ar3po serve`, with servers that only remember what was done to them. Real ones: tests/unit/comparison, tests/e2e."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from megatron_ar3po import cli
from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.launch.serve import serve

CONFIG = Config(run=RunConfig(name="mine"))


@dataclass
class RememberingServers:
    looks: int  # so often they are found running
    events: list[str] = field(default_factory=list)

    def words_for(self, config: Config) -> list[str]:
        self.events.append(f"started for {config.run.name}")
        return ["servers.urls=[http://127.0.0.1:30000]"]

    def are_running(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def discard(self) -> None:
        self.events.append("ended")


def test_it_says_how_to_attach_and_ends_what_it_started_when_a_server_has_ended(capsys):
    servers = RememberingServers(looks=0)
    assert serve(CONFIG, servers, words="c.yaml servers.port=30000", logs=Path("logs")) == 1
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "attach with: ar3po train c.yaml servers.port=30000 servers.urls=[http://127.0.0.1:30000]",
        "a server has ended; its log is in logs",
    ]
    assert servers.events == ["started for mine", "ended"]


class TerminatedServers(RememberingServers):
    """SIGTERM comes while they are looked at for the third time."""

    def are_running(self) -> bool:
        if self.looks == 10_000 - 2:
            signal.raise_signal(signal.SIGTERM)
        return super().are_running()


def test_sigterm_ends_it_and_what_it_started():
    before = signal.getsignal(signal.SIGTERM)
    servers = TerminatedServers(looks=10_000)
    assert serve(CONFIG, servers, words="c.yaml", logs=Path("logs")) == 0
    assert servers.events == ["started for mine", "ended"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["servers.port=1"], "no config file given"),
        (["CONFIG", "servers.urls=[http://127.0.0.1:1]"], "names servers that run"),
    ],
)
def test_what_it_cannot_start_is_one_sentence(tmp_path, words, said, capsys):
    (tmp_path / "c.yaml").write_text("run: {name: mine}\n")
    given = [str(tmp_path / "c.yaml") if word == "CONFIG" else word for word in words]
    assert cli.main(["serve", *given]) == 2
    assert said in capsys.readouterr().err
