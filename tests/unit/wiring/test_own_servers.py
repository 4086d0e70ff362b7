"""Whose the servers are that a run starts. That another run is refused one is in unit/servers/test_left_behind.py, that
those of an experiment are nobody's in unit/comparison/test_servers.py, whose doubles take no owner."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from fakes.ranks import OneRank

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.wiring import servers


class Double:
    url = "http://double"

    def begin(self) -> None:
        self.is_begun = True

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


def begin(
    tmp_path: Path, stack: ExitStack, *words: str, world_size: int = 1, on_gpu: bool = False
) -> object:
    config = load_config([], ["model.path=/model", f"run.dir={tmp_path}/one", *words])
    layout = ParallelLayout(world_size=world_size)
    return servers.begin_server(config, layout, stack, on_gpu=on_gpu)


def test_the_server_of_a_run_without_a_gpu_imports_before_the_prompts_are_read(
    monkeypatch, tmp_path
):
    """And is the one that is started then."""
    made: list[Double] = []
    monkeypatch.setattr(servers, "make_server", lambda *a, **k: made.append(Double()) or made[-1])
    with ExitStack() as stack:
        begun = cast(SglangServer, begin(tmp_path, stack))
        assert begun is made[0] and made[0].is_begun
        assert not (tmp_path / "one").exists()
        config = Config(model=ModelConfig(path="/model"), run=RunConfig(dir=str(tmp_path)))
        placements, own = [ServerPlacement(name="dp0.s0", number=0)], {}
        servers.start_own(config, cast(Ranks, OneRank()), stack, placements, own, begun)
    assert own == {"dp0.s0": begun} and len(made) == 1 and made[0].is_at_gate


@pytest.mark.parametrize(
    ("words", "world_size"),
    [
        (["servers.urls=[http://127.0.0.1:1]"], 1),
        (["servers.servers_per_replica=2"], 1),
        (["debug.mode=train_only", "debug.replay_path=x"], 1),
        ([], 2),
    ],
)
def test_no_server_is_begun_where_a_start_is_another_matter(
    monkeypatch, tmp_path, words, world_size
):
    monkeypatch.setattr(servers, "make_server", lambda *a, **k: Double())
    with ExitStack() as stack:
        assert begin(tmp_path, stack, *words, world_size=world_size) is None


def test_beside_a_gpu_a_server_imports_in_the_environment_in_which_it_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(servers, "make_server", lambda *a, **k: Double())
    with ExitStack() as stack:
        assert begin(tmp_path, stack, on_gpu=True) is None
