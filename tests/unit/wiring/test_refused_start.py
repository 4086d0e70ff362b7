"""A start that is refused has changed nothing: what an earlier run has left is there byte for byte, whatever the
reason. The whole start-up runs, on a folder that a real run has written; only the server is one that nobody started.
That a whole process is refused like this is in tests/e2e/test_refused_resume.py."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from fakes.ranks import OneRank

from megatron_ar3po.config.load import load_config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.folder_owner import FolderOwner, this_process, write_note
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.reuse.admin.maintenance import reshard
from megatron_ar3po.reuse.opening import claim_shard
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.run.upgrade import upgrade_run
from megatron_ar3po.wiring.reuse_store import fingerprint_of
from megatron_ar3po.wiring.run import train

RUN = Path("run")
LOGS = ("train.log", "status", "logs", "tensorboard")  # they go on; nothing in them is lost


@pytest.fixture(autouse=True)
def logging_of_the_package_stays_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("megatron_ar3po")
    handlers, level, propagates = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagates


@pytest.fixture
def done_run(old_run: Path) -> Path:
    """Four steps of AR3PO, done; the current folder is where its paths start."""
    upgrade_run(old_run)
    return old_run


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def start(*words: str) -> None:
    config = load_config(
        [RUN / "resolved_config.yaml"],
        [
            "debug.mode=rollout_only",  # no model to build
            f"servers.urls=[http://127.0.0.1:{closed_port()}]",
            "servers.start_timeout_s=0.2",
            "run.allow_changed=[debug.mode]",
            "run.num_steps=6",
            "run.resume=true",
            *words,
        ],
    )
    with ExitStack() as stack:
        owner = FolderOwner.claim(config.run.path)
        stack.callback(owner.release)
        train(config, cast("Ranks", OneRank()), stack, StopRequest(), owner)


def allow_change(word: str) -> tuple[str, str]:
    """It is not for its change that a start is refused."""
    return word, f"run.allow_changed=[debug.mode,{word.partition('=')[0]}]"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in LOGS
    }


def lose_the_marker() -> None:
    (RUN / "checkpoints/latest").unlink()


def empty_the_marker() -> None:
    (RUN / "checkpoints/latest").write_text("")


def remove_a_prompt() -> None:
    prompts = Path("prompts.jsonl")
    prompts.write_text("".join(prompts.read_text().splitlines(keepends=True)[1:]))


def change_the_tokenizer() -> None:
    file = Path("model/tokenizer.json")
    file.write_text(json.dumps(json.loads(file.read_text()), indent=3))


def change_the_format() -> None:
    (RUN / "version.json").write_text('{"format": 99, "written_by": "9.0"}')


def damage_the_metrics() -> None:
    lines = (RUN / "metrics.jsonl").read_text().splitlines(keepends=True)
    (RUN / "metrics.jsonl").write_text("".join([lines[0], "no JSON\n", *lines[1:]]))


def damage_the_store() -> None:
    shard = RUN / "reuse/dp00_of_01.sqlite"
    shard.write_bytes(shard.read_bytes()[:-5000])


def give_the_store_to_another_run() -> None:
    with sqlite3.connect(RUN / "reuse/dp00_of_01.sqlite") as connection:
        found = connection.execute("SELECT fingerprint FROM shard").fetchone()[0]
        fields = {**json.loads(found), "run": "another"}
        connection.execute("UPDATE shard SET fingerprint = ?", (json.dumps(fields),))
    connection.close()


def let_the_store_commit_step_5() -> None:
    with sqlite3.connect(RUN / "reuse/dp00_of_01.sqlite") as connection:
        connection.execute("UPDATE shard SET committed = 5, clock = 5")
    connection.close()


def lose_a_shard() -> None:
    reshard(RUN, dp_size=2)
    next((RUN / "reuse").glob("dp01_of_02*.sqlite")).unlink()


def own_it_elsewhere() -> None:
    there = replace(this_process(), host="node17", pid=4711, namespace="pid:[1]", token="aa")
    write_note(RUN / "owner.json", there)


def lock_the_store() -> None:
    """Held until the end of the test."""
    config = load_config([RUN / "resolved_config.yaml"])
    claim_shard(RUN / "reuse", dp_rank=0, dp_size=1, run_seed=0, fingerprint=fingerprint_of(config))


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "words", "sentence"),
    [
        (lose_the_marker, (), r"latest is missing or empty, but .* holds step_00004"),
        (
            lose_the_marker,
            allow_change("reuse.enabled=false"),
            r"latest is missing or empty, but .* holds",
        ),
        (empty_the_marker, (), r"latest is missing or empty, but .* holds step_00004"),
        (remove_a_prompt, (), r"the prompts or their order are not those of the checkpoint"),
        (change_the_tokenizer, (), r"answers of another tokenizer"),
        (change_the_format, (), r"has format 99 and was written by megatron_ar3po 9\.0"),
        (damage_the_metrics, (), r"metrics\.jsonl:2 is not JSON"),
        (damage_the_store, (), r"dp00_of_01\.sqlite is damaged"),
        (give_the_store_to_another_run, (), r"answers of another run 'another'"),
        (let_the_store_commit_step_5, (), r"cannot go back to step 4"),
        (lose_a_shard, (), r"only a part of its shards: dp01_of_02.*\.sqlite is missing"),
        (own_it_elsewhere, (), r"has an owner \(its owner.json\): process 4711 on node17"),
        (lock_the_store, (), r"dp00_of_01\.sqlite has another writer"),
        (nothing, ("run.resume=false",), r"already holds a run; set run\.resume=true"),
        (nothing, allow_change("rewards.verifier=no_such:make"), r"rewards\.verifier=no_such:make"),
        (nothing, allow_change("rollout.prompts_per_step=7"), r"more than the 6 prompts"),
        (nothing, (), r"nothing there answered /ready"),
        (lambda: reshard(RUN, dp_size=3), (), r"nothing there answered /ready"),
    ],
    ids=[
        "marker lost",
        "marker lost, no reuse",
        "marker empty",
        "a prompt removed",
        "tokenizer changed",
        "a newer format",
        "metrics damaged",
        "store damaged",
        "store of another run",
        "store ahead of the checkpoint",
        "shard lost",
        "owned by another node",
        "store locked",
        "not a resume",
        "no such verifier",
        "more prompts a step than there are",
        "no server",
        "no server, after another DP size",
    ],
)
def test_a_refused_start_leaves_every_file_as_it_was(
    done_run: Path, spoil: Callable[[], object], words: tuple[str, ...], sentence: str
):
    mend = spoil()
    before = contents(done_run)
    with pytest.raises((ValueError, RolloutEngineError), match=sentence):
        start(*words)
    assert contents(done_run) == before
    if callable(mend):
        mend()


def test_a_new_run_that_is_refused_leaves_its_name_free(done_run: Path):
    """The same command starts it once it is mended."""
    for _ in range(2):
        with pytest.raises(RolloutEngineError, match="nothing there answered"):
            start("run.resume=false", "run.dir=new")
    assert sorted(contents(Path("new"))) == []


def test_what_was_refused_starts_once_it_is_mended(done_run: Path):
    """Also the second time: a lost shard must not have been replaced by an empty one."""
    reshard(done_run, dp_size=2)
    shard = next((done_run / "reuse").glob("dp01_of_02*.sqlite"))
    shutil.move(shard, "kept")
    for _ in range(2):
        with pytest.raises(ValueError, match="only a part of its shards"):
            start()
    shutil.move("kept", shard)
    with pytest.raises(RolloutEngineError, match="nothing there answered"):
        start()
