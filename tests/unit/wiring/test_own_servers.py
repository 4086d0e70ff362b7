"""Whose the servers are that a run starts. That another run is refused one is in unit/servers/test_left_behind.py, that
those of an experiment are nobody's in unit/comparison/test_servers.py, whose doubles take no owner."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from fakes.ranks import OneRank

from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.wiring import servers


class Double:
    url = "http://double"

    def start(self, *, behind_gate: bool) -> None:
        self.is_at_gate = behind_gate

    def stop(self) -> None:
        pass


def test_a_run_starts_its_servers_for_itself_alone(monkeypatch, tmp_path):
    owners: list[str] = []

    def make(config: Config, placement: ServerPlacement, log_dir: Path, *, owner: str) -> Double:
        owners.append(owner)
        return Double()

    monkeypatch.setattr(servers, "make_server", make)
    config = Config(model=ModelConfig(path="/model"), run=RunConfig(dir=str(tmp_path), name="one"))
    placements = [ServerPlacement(name=f"dp0.s{i}", number=i) for i in range(2)]
    with ExitStack() as stack:
        servers.start_own(config, cast(Ranks, OneRank()), stack, placements, {})
    assert owners == [servers.client_name(config)] * 2
    assert f"process {os.getpid()} on " in owners[0] and str(config.run.path) in owners[0]
