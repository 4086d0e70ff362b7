"""The servers of an experiment, with doubles that only remember what was done to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from megatron_ar3po.comparison.servers import SharedServers
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.servers.placement import ServerPlacement


@dataclass
class Double:
    url: str
    name: str
    breaks: bool = False
    runs: bool = False

    def start(self) -> None:
        self.runs = True

    def wait_ready(self) -> float:
        if self.breaks:
            raise RuntimeError("died while starting")
        return 0.0

    def is_running(self) -> bool:
        return self.runs

    def stop(self) -> None:
        self.runs = False


class Farm:
    def __init__(self, *, breaks: bool = False) -> None:
        self.made: list[Double] = []
        self.breaks = breaks
        self.shared = SharedServers(Path("logs"), make=self.make)  # type: ignore[arg-type]

    def make(self, config: Config, placement: ServerPlacement, log_dir: Path) -> Double:
        self.made.append(Double(f"http://{len(self.made)}", placement.name, breaks=self.breaks))
        return self.made[-1]

    def running(self) -> list[str]:
        return [server.url for server in self.made if server.runs]


CONFIG = Config(model=ModelConfig(path="/model"))
TWO_SERVERS = replace(CONFIG, servers=ServersConfig(servers_per_replica=2))


def test_runs_that_would_start_the_same_servers_share_them() -> None:
    farm = Farm()
    assert farm.shared.words_for(CONFIG) == ["servers.urls=[http://0]"]
    # Stages, batch and temperature are the run's affair.
    rollout = RolloutConfig(num_stages=1, prompts_per_step=4, temperature=0.5)
    other = replace(CONFIG, rollout=rollout)
    assert farm.shared.words_for(other) == ["servers.urls=[http://0]"]
    assert farm.running() == ["http://0"]


def test_other_options_of_the_server_take_another_one_in_the_place_of_the_first() -> None:
    farm = Farm()
    farm.shared.words_for(CONFIG)
    two = farm.shared.words_for(replace(TWO_SERVERS, run=RunConfig(deterministic=True)))
    assert two == ["servers.urls=[http://1,http://2]"]
    assert [server.name for server in farm.made] == ["dp0.s0", "dp0.s0", "dp0.s1"]
    assert farm.running() == ["http://1", "http://2"]


def test_a_server_that_was_lost_or_discarded_is_replaced() -> None:
    farm = Farm()
    farm.shared.words_for(CONFIG)
    farm.made[0].runs = False
    assert farm.shared.words_for(CONFIG) == ["servers.urls=[http://1]"]
    farm.shared.discard()
    assert farm.running() == []
    assert farm.shared.words_for(CONFIG) == ["servers.urls=[http://2]"]


def test_a_server_that_dies_while_starting_takes_the_others_along() -> None:
    farm = Farm(breaks=True)
    with pytest.raises(RuntimeError, match="died while starting"):
        farm.shared.words_for(TWO_SERVERS)
    assert len(farm.made) == 2 and farm.running() == []
