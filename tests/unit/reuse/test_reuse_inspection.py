"""`ar3po reuse ...` on small stores, through the command line's own parser."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from fakes.reuse_cases import (
    alive,
    contents,
    deposit,
    make_prompt,
    make_response,
    open_store,
)

from megatron_ar3po.reuse.admin.cli import add_reuse_parser
from megatron_ar3po.reuse.admin.importing import imported_id, original_id
from megatron_ar3po.reuse.admin.maintenance import regrade
from megatron_ar3po.types import Prompt, Response, Verdict


class GraderOfToday:
    """Odd prompts have another id by now; prompt 4 is no longer asked; the answer to prompt 2 is wrong now."""

    verdicts: ClassVar = {"rewards.correct": "2.0"}

    def current_prompt(self, prompt: Prompt) -> Prompt | None:
        number = int(prompt.ground_truth)
        if number == 4:
            return None
        return (
            replace(prompt, prompt_id=make_prompt(100 + number).prompt_id) if number % 2 else prompt
        )

    def verify(self, prompt: Prompt, response: Response) -> Verdict:
        is_right = prompt.ground_truth != "2"
        return Verdict(
            reward=float(is_right), status="correct" if is_right else "incorrect", reason="today's"
        )


def reuse(*words: object) -> int:
    parser = argparse.ArgumentParser()
    grader = GraderOfToday()
    add_reuse_parser(
        parser.add_subparsers(),
        make_grader=lambda config, stack: _check_config(config, stack, grader),
    )
    arguments = parser.parse_args(["reuse", *map(str, words)])
    return arguments.command(arguments)


def _check_config(config: Path, stack: ExitStack, grader: GraderOfToday) -> GraderOfToday:
    assert config.name.endswith(".yaml") and isinstance(stack, ExitStack)
    return grader


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two shards; prompts 0..5, steps 1..3, cap 2; the even prompts lent once in step 3."""
    (tmp_path / "resolved_config.yaml").write_text("{}")
    for rank in (0, 1):
        with open_store(
            tmp_path / "reuse", dp_rank=rank, dp_size=2, max_responses_per_prompt=2, option="detach"
        ) as store:
            mine = [make_prompt(n) for n in range(rank, 6, 2)]
            for step in (1, 2, 3):
                deposit(store, [make_response(p, step) for p in mine], step)
            for offset, prompt in enumerate(mine):
                if rank == 0:
                    store.borrow(prompt.prompt_id, step=3, position=offset)
    return tmp_path


def shards_of(run: Path) -> list[Path]:
    return sorted((run / "reuse").glob("*.sqlite"))


def flip_a_byte(shard: Path, needle: bytes) -> None:
    content = bytearray(shard.read_bytes())
    content[content.index(needle)] ^= 0x10
    shard.write_bytes(content)


def test_stats_counts_responses_prompts_tokens_and_loans(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    assert reuse("stats", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["responses"], found["prompts"], found["tokens"]) == (12, 6, 60)
    assert (found["evicted_kept"], found["loans"], found["raw_bytes"]) == (6, 3, 480)
    assert [s["shard"] for s in found["shards"]] == ["dp00_of_02.sqlite", "dp01_of_02.sqlite"]
    assert (found["shards"][0]["oldest_step"], found["shards"][0]["newest_step"]) == (2, 3)
    assert reuse("stats", run / "reuse" / "dp01_of_02.sqlite") == 0
    assert "dp01_of_02 " in capsys.readouterr().out


def test_ls_lists_what_is_alive_by_prompt(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert reuse("ls", run, "--prompt", make_prompt(3).prompt_id[:16], "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["response_id"] for row in rows] == ["s2-p3-i0", "s3-p3-i0"]
    assert rows[0]["num_tokens"] == 5 and "token_ids" not in rows[0]
    assert reuse("ls", run, "--limit", 1) == 0
    assert "s2-p0-i0" in capsys.readouterr().out


def test_show_tells_prompt_response_and_provenance(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    assert reuse("show", run, "s2-p4") == 0
    shown = capsys.readouterr().out
    for fact in (
        "What is 4?",
        "ground truth: 4",
        "step 2, stage 1, index 0",
        "temperature 1.0, top_p 1.0",
        "5 tokens, finished by stop",
        "correct, reward 1; 7 = 7",
        "in dp00_of_02.sqlite since step 2",
        "lent 1 times",
        "3 2 detach - - - -",
    ):
        assert fact in " ".join(shown.split()), fact


def test_show_of_an_unknown_or_ambiguous_id_says_which_there_are(run: Path) -> None:
    with pytest.raises(ValueError, match="0 stored responses begin with 'nothing'"):
        reuse("show", run, "nothing")
    with pytest.raises(
        ValueError,
        match=r"6 stored responses begin with .s2-p.: s2-p0-i0, s2-p2-i0, s2-p4-i0, s2-p1-i0",
    ):
        reuse("show", run, "s2-p")


def test_verify_finds_nothing_in_a_sound_store(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert reuse("verify", run) == 0
    assert capsys.readouterr().out == "2 shards, 0 problems\n"


def test_verify_finds_every_flipped_byte_of_token_data(tmp_path: Path) -> None:
    """Each byte of one row's tokens and log-probs is flipped in turn."""
    given = make_response(make_prompt(1), 1, num_tokens=9)
    with open_store(tmp_path) as store:
        deposit(store, [given], 1)
        (data,) = store._connection.execute("SELECT data FROM payloads").fetchone()
        path = store.path
    sound = path.read_bytes()
    start = sound.index(data)
    assert len(data) == 1 + 9 * 3 + 9 * 4
    for offset in range(start, start + len(data)):
        path.write_bytes(sound[:offset] + bytes([sound[offset] ^ 0x01]) + sound[offset + 1 :])
        assert reuse("verify", path) == 1
    path.write_bytes(sound)
    assert reuse("verify", path) == 0


def test_verify_never_breaks_on_a_flipped_byte_anywhere(tmp_path: Path) -> None:
    """Anywhere in the file: found, harmless, or a clear refusal, but never an unexplained exception."""
    with open_store(tmp_path) as store:
        deposit(store, [make_response(make_prompt(n), 1) for n in range(3)], 1)
        path = store.path
    sound = path.read_bytes()
    for offset in range(0, len(sound), 331):
        path.write_bytes(sound[:offset] + bytes([sound[offset] ^ 0xFF]) + sound[offset + 1 :])
        assert reuse("verify", path) in (0, 1)


def test_verify_compares_the_tables_and_the_counter(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = shards_of(run)
    with sqlite3.connect(first) as connection:
        connection.execute("UPDATE arrivals SET step = 1 WHERE response_id = 's3-p0-i0'")
        connection.execute("DELETE FROM payloads WHERE id = (SELECT MIN(id) FROM payloads)")
    connection.close()
    with sqlite3.connect(second) as connection:
        connection.execute("UPDATE shard SET num_responses = 99, num_bytes = 7, oldest_id = 90")
        connection.execute("UPDATE responses SET lottery = 5 WHERE id = 1")
    connection.close()
    assert reuse("verify", run, "--json") == 1
    problems = [p["what"] for p in json.loads(capsys.readouterr().out)["problems"]]
    assert any("tables 'responses' and 'arrivals' say" in what for what in problems)
    assert any("1 responses have lost their tokens" in what for what in problems)
    assert any("its hash rank is 5" in what for what in problems)
    assert any("its counter says 99 responses, 6 are sound" in what for what in problems)
    assert any("its counter says 7 bytes, its rows " in what for what in problems)
    assert any(
        what.startswith("it takes row") and what.endswith("for evicted") for what in problems
    )


def test_an_export_imports_back_what_todays_verifier_calls_correct(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """12 lines: 2 of prompt 4 are not asked any more, 2 of prompt 2 are wrong today, 8 are believed."""
    assert reuse("export", run, tmp_path / "all.jsonl", "--json") == 0
    assert json.loads(capsys.readouterr().out)["responses"] == 12
    other = tmp_path / "other"
    open_store(other / "reuse").close()
    (other / "config.yaml").write_text("{}")
    read = {"read": 12, "unknown_prompt": 2, "not_correct": 2}
    for imported in ({"imported": 8}, {"already_there": 8, "imported": 0}):
        assert (
            reuse(
                "import", other, tmp_path / "all.jsonl", "--config", other / "config.yaml", "--json"
            )
            == 0
        )
        counts = json.loads(capsys.readouterr().out)
        assert counts == {**read, **imported}
    with open_store(other / "reuse") as store:
        borrowed = store.borrow(make_prompt(101).prompt_id, step=1)
    assert borrowed is not None and borrowed.verdict.reason == "today's"
    given = make_response(
        make_prompt(1), int(original_id(borrowed.response.response_id)[1])
    ).response
    assert borrowed.response.token_ids.tolist() == given.token_ids.tolist()
    assert borrowed.response.logprobs.tobytes() == given.logprobs.tobytes()


def import_into(store: Path, lines: Path, capsys: pytest.CaptureFixture) -> dict[str, int]:
    assert reuse("import", store, lines, "--config", store / "config.yaml", "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_an_imported_response_never_has_the_name_of_one_of_this_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """An answer of another run to this run's prompt 0, named as this run's own of step 3 is. Both are stored."""
    reuse("export", run, tmp_path / "all.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    own = next(line for line in lines if line["response_id"] == "s3-p0-i0")
    foreign = {**own, "token_ids": [7, 7, 7], "logprobs": [-0.5, -0.5, -0.5]}
    (tmp_path / "foreign.jsonl").write_text(json.dumps(foreign) + "\n")
    (run / "config.yaml").write_text("{}")
    capsys.readouterr()
    assert import_into(run, tmp_path / "foreign.jsonl", capsys) == {"read": 1, "imported": 1}
    capsys.readouterr()
    reuse("export", run, tmp_path / "both.jsonl")
    stored = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    names = {tuple(line["token_ids"]): line["response_id"] for line in stored}
    assert names[tuple(own["token_ids"])] == "s3-p0-i0"
    imported = names[7, 7, 7]
    assert imported.startswith("import-") and original_id(imported) == "s3-p0-i0"


def test_what_a_store_has_exported_it_does_not_import_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Under its own names, nor what it has imported: neither comes back under a third name."""
    (run / "config.yaml").write_text("{}")
    without_a_name = {
        "prompt_id": make_prompt(0).prompt_id,
        "prompt": {"token_ids": list(make_prompt(0).token_ids), "ground_truth": "0"},
        "token_ids": [5],
        "logprobs": [-1.0],
    }
    (tmp_path / "new.jsonl").write_text(json.dumps(without_a_name) + "\n")
    assert import_into(run, tmp_path / "new.jsonl", capsys) == {"read": 1, "imported": 1}
    reuse("export", run, tmp_path / "all.jsonl")
    of_prompt_0 = [
        line
        for line in (tmp_path / "all.jsonl").read_text().splitlines(keepends=True)
        if json.loads(line)["prompt_id"] == make_prompt(0).prompt_id
    ]
    (tmp_path / "mine.jsonl").write_text("".join(of_prompt_0))
    capsys.readouterr()
    assert import_into(run, tmp_path / "mine.jsonl", capsys) == {
        "read": 3,
        "already_there": 3,
        "imported": 0,
    }


def test_an_imported_name_tells_prompts_and_tokens_apart() -> None:
    name = partial(imported_id, "s1.p0.1.0")
    first = name(prompt_token_ids=(1, 2), tokens=np.array([3], np.int32))
    assert first == name(prompt_token_ids=(1, 2), tokens=np.array([3], np.int32))
    assert first == imported_id(
        first, prompt_token_ids=(1, 2), tokens=np.array([3], np.int32)
    )  # of an import of an export
    others = [
        name(prompt_token_ids=(1, 3), tokens=np.array([3], np.int32)),
        name(prompt_token_ids=(1, 2), tokens=np.array([4], np.int32)),
        imported_id("s2.p0.1.0", prompt_token_ids=(1, 2), tokens=np.array([3], np.int32)),
        imported_id("", prompt_token_ids=(1, 2), tokens=np.array([3], np.int32)),
    ]
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "{}",
        '{"prompt": {"token_ids": [1], "ground_truth": "1"}, "token_ids": [1, 2], "logprobs": [0]}',
    ],
)
def test_a_bad_line_is_named_by_its_number(run: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"bad.jsonl:1 is not a response to import"):
        reuse("import", run, tmp_path / "bad.jsonl")


def test_parquet_holds_the_same_rows(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    reuse("export", run, tmp_path / "all.parquet")
    reuse("export", run, tmp_path / "all.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    rows = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert [row["token_ids"] for row in rows] == [line["token_ids"] for line in lines]
    assert [row["logprobs"] for row in rows] == [line["logprobs"] for line in lines]
    assert [row["verdict"] for row in rows] == [line["verdict"] for line in lines]
    assert json.loads(rows[0]["prompt"]) == lines[0]["prompt"]


def test_salvage_exports_all_rows_but_the_damaged_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shard = shards_of(run)[0]
    flip_a_byte(shard, make_response(make_prompt(2), 3).response.logprobs.tobytes())
    with pytest.raises(ValueError, match="export --salvage"):
        reuse("export", run, tmp_path / "all.jsonl")
    assert not (tmp_path / "all.jsonl").exists()
    assert reuse("export", run, tmp_path / "all.jsonl", "--salvage") == 0
    assert "11 responses in" in capsys.readouterr().out
    names = {
        json.loads(line)["response_id"]
        for line in (tmp_path / "all.jsonl").read_text().splitlines()
    }
    assert len(names) == 11 and "s3-p2-i0" not in names


def test_salvage_reads_around_a_page_that_is_gone(tmp_path: Path) -> None:
    """A whole page of token data is overwritten: the rows of other pages are still saved."""
    with open_store(tmp_path) as store:
        deposit(store, [make_response(make_prompt(n), 1, num_tokens=200) for n in range(60)], 1)
        path = store.path
        num_pages = path.stat().st_size // 4096
    needle = make_response(make_prompt(30), 1, num_tokens=200).response.logprobs.tobytes()
    content = bytearray(path.read_bytes())
    page = content.index(needle[:64]) // 4096
    content[page * 4096 : (page + 1) * 4096] = bytes(4096)
    path.write_bytes(content)
    assert num_pages > 20
    assert reuse("export", path, tmp_path / "all.jsonl", "--salvage") == 0
    saved = len((tmp_path / "all.jsonl").read_text().splitlines())
    assert 50 <= saved < 60


def test_gc_drops_damaged_rows_and_what_is_too_old(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    flip_a_byte(shards_of(run)[0], make_response(make_prompt(2), 3).response.logprobs.tobytes())
    assert reuse("gc", run, "--damaged", "--max-age-steps", 1, "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    assert (
        counts["responses"] == 1 + 6
    )  # the damaged one, and the six of step 1 that were kept for a rollback
    assert reuse("verify", run) == 0
    assert len(alive(*shards_of(run))) == 11
    with open_store(run / "reuse", dp_rank=0, dp_size=2) as store:
        assert len(store) == 5


def test_gc_keeps_the_newest_within_a_number_of_bytes(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for step in range(1, 11):
            deposit(store, [make_response(make_prompt(step), step, num_tokens=1000)], step)
        path = store.path
    assert (
        reuse("gc", path, "--max-bytes", 32_000) == 0
    )  # 7,001 bytes of data and some 400 of details each
    assert alive(path) == {f"s{n}-p{n}-i0" for n in (7, 8, 9, 10)}


def test_reshard_from_the_command_line_keeps_every_row(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(*shards_of(run))
    assert reuse("reshard", run, "--dp-size", 3, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"shards": 3, "version": 2}
    assert contents(*shards_of(run)) == before and len(shards_of(run)) == 3


def test_regrade_moves_correct_answers_to_todays_prompts_and_drops_the_others(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    """18 rows with the evicted ones: 3 each of prompts 2 and 4 go."""
    assert reuse("regrade", run, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "kept": 12,
        "not_correct": 3,
        "unknown_prompt": 3,
    }
    assert reuse("verify", run) == 0
    for shard in shards_of(run):
        with closing(sqlite3.connect(shard)) as connection:
            (noted,) = connection.execute("SELECT fingerprint FROM shard").fetchone()
        assert json.loads(noted)["verdicts"] == GraderOfToday.verdicts
    with open_store(run / "reuse", dp_rank=1, dp_size=2) as store:
        assert store.borrow(make_prompt(1).prompt_id, step=4) is None
        borrowed = store.borrow(make_prompt(101).prompt_id, step=4)
    assert borrowed is not None and borrowed.verdict.reason == "today's"
    with open_store(run / "reuse", dp_rank=0, dp_size=2) as store:
        assert store.borrow(make_prompt(2).prompt_id, step=4) is None
        assert len(store) == 2
        store.rollback({"step": 2})  # the way back is kept, too
        assert alive(store.path) == {"s1-p0-i0", "s2-p0-i0"}


def test_a_store_of_other_verdicts_takes_no_imports_until_it_is_regraded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reuse("export", run, tmp_path / "all.jsonl")
    for shard in shards_of(run):
        with sqlite3.connect(shard) as connection:
            (noted,) = connection.execute("SELECT fingerprint FROM shard").fetchone()
            noted = json.dumps({**json.loads(noted), "verdicts": {"rewards.correct": "1.0"}})
            connection.execute("UPDATE shard SET fingerprint = ?", (noted,))
        connection.close()
    (run / "config.yaml").write_text("{}")
    with pytest.raises(
        ValueError, match=r"graded with rewards\.correct=1\.0, here it is rewards\.correct=2\.0"
    ):
        reuse("import", run, tmp_path / "all.jsonl", "--config", run / "config.yaml")
    assert reuse("regrade", run) == 0
    assert reuse("import", run, tmp_path / "all.jsonl", "--config", run / "config.yaml") == 0


def test_a_regrade_that_the_verifier_fails_in_changes_nothing(run: Path) -> None:
    class FailingGrader(GraderOfToday):
        def verify(self, prompt: Prompt, response: Response) -> Verdict:
            return Verdict(reward=None, status="error", reason="sympy died, twice")

    before = {path: path.read_bytes() for path in shards_of(run)}
    with pytest.raises(ValueError, match=r"failed for stored response .*\(sympy died, twice\)"):
        regrade(run, FailingGrader())
    assert {path: path.read_bytes() for path in shards_of(run)} == before


def test_reading_is_possible_beside_the_writer_and_changing_is_not(
    run: Path, tmp_path: Path
) -> None:
    with open_store(run / "reuse", dp_rank=0, dp_size=2) as store:
        store._connection.execute("BEGIN IMMEDIATE")  # in the middle of a deposit
        assert reuse("stats", run) == 0
        assert reuse("verify", run) == 0
        assert reuse("export", run, tmp_path / "all.jsonl") == 0
        store._connection.execute("ROLLBACK")
        for words in (("gc", run), ("reshard", run, "--dp-size", 1), ("regrade", run)):
            with pytest.raises(ValueError, match="has another writer"):
                reuse(*words)


def test_a_store_whose_writer_was_killed_in_a_commit_can_be_read(tmp_path: Path) -> None:
    """The journal it left must be played back first, which a reader may not do by itself."""

    def die_in_a_commit() -> None:
        store = open_store(tmp_path)
        deposit(store, [make_response(make_prompt(n), 1, num_tokens=300) for n in range(50)], 1)
        store._connection.execute("PRAGMA cache_size = 2")  # pages go to the file before the commit
        store._connection.execute("BEGIN IMMEDIATE")
        store._connection.execute("UPDATE payloads SET crc = 0")
        os.kill(os.getpid(), signal.SIGKILL)

    victim = multiprocessing.get_context("fork").Process(target=die_in_a_commit)
    victim.start()
    victim.join(60)
    assert (tmp_path / "dp00_of_01.sqlite-journal").stat().st_size > 0
    assert reuse("verify", tmp_path) == 0
    assert len(alive(tmp_path / "dp00_of_01.sqlite")) == 50


def test_a_path_without_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no reuse store at"):
        reuse("stats", tmp_path)
