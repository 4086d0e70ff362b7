"""Prompts as columns: what comes out is what went in, from memory, from a mapped file and in another process; and the
cache that keeps such files."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest

from megatron_ar3po.data.prompt_cache import Built, PromptCache
from megatron_ar3po.data.prompt_table import Origin, make_table, open_table
from megatron_ar3po.types import Prompt

NUM = 5000  # more than a batch


def prompt(number: int) -> Prompt:
    return Prompt(
        prompt_id=f"{number:032x}",
        token_ids=tuple(range(number % 7 + 1)),
        ground_truth=str(number),
        text=f"½ {number}",
        source="ab"[number % 2],
        metadata={"level": number, "nested": {"x": [1.5, None]}} if number % 3 else {},
    )


PROMPTS = [prompt(number) for number in range(NUM)]


def fill(writer) -> None:
    for number, each in enumerate(PROMPTS):
        writer.add(each, Origin(number // 3000, number + 1))


@pytest.fixture(params=["in memory", "mapped"])
def table(request, tmp_path):
    return make_table(fill, tmp_path / "prompts.arrow" if request.param == "mapped" else None)


def test_a_row_is_the_prompt_that_was_added(table):
    assert len(table) == NUM and list(table) == PROMPTS
    for index in (0, 4095, 4096, NUM - 1, -1):
        assert table[index] == PROMPTS[index]
    assert table[4094:4098] == PROMPTS[4094:4098] and table[:0] == []
    with pytest.raises(IndexError):
        table[NUM]


def test_a_table_knows_ids_sources_and_where_its_rows_stood(table):
    assert table.ids.shape == (NUM, 16)
    assert table.ids[4097].tobytes().hex() == PROMPTS[4097].prompt_id
    assert table.sources == ["a", "b"]
    assert list(table.lengths) == [len(each.token_ids) for each in PROMPTS]
    assert table.num_rows_by_file(3) == [3000, 2000, 0]
    assert table.origin_of(3001) == Origin(1, 3002)


def test_another_process_gets_the_same_rows(table):
    sent = pickle.loads(pickle.dumps(table))
    assert sent == table and sent[17] == PROMPTS[17]


def test_rows_can_be_left_out(table):
    keep = np.arange(NUM) % 1000 == 3
    fewer = make_table(lambda writer: table.write_rows(writer, keep), None)
    assert list(fewer) == PROMPTS[3::1000]


@pytest.fixture
def build(tmp_path):
    calls = []

    def build(sink):
        calls.append(sink)
        return Built(make_table(fill, sink), ["one line was left out"])

    build.calls = calls
    return build


def test_what_is_in_the_cache_is_not_made_again_and_says_again_what_was_amiss(tmp_path, build):
    cache = PromptCache(tmp_path / "cache", "key")
    first = cache.load(build)
    again = cache.load(build)
    assert len(build.calls) == 1 and list(again.table) == list(first.table) == PROMPTS
    assert again.said == ["one line was left out"]
    assert pickle.loads(pickle.dumps(first.table))[5] == PROMPTS[5]  # by its name in the cache
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        "key.arrow",
        "key.json",
        "key.lock",
    ]
    assert list(PromptCache(tmp_path / "cache", "other").load(build).table) == PROMPTS
    assert len(build.calls) == 2


@pytest.mark.parametrize("ending", ["arrow", "json"])
def test_a_cut_off_entry_is_made_again(tmp_path, build, caplog, ending):
    cache = PromptCache(tmp_path, "key")
    cache.load(build)
    entry = tmp_path / f"key.{ending}"
    content = entry.read_bytes()
    entry.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        assert list(cache.load(build).table) == PROMPTS
    assert len(build.calls) == 2 and "made again" in caplog.text
    assert json.loads((tmp_path / "key.json").read_text())["rows"] == NUM
    assert list(open_table(tmp_path / "key.arrow")) == PROMPTS


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_run(tmp_path, build, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        built = PromptCache(tmp_path / "file" / "cache", "key").load(build)
    assert list(built.table) == PROMPTS and build.calls == [None]
    assert "name another folder by data.cache_dir" in caplog.text


def test_what_cannot_be_trained_on_leaves_nothing_in_the_cache(tmp_path):
    def refuse(sink):
        make_table(fill, sink)
        raise ValueError("two answers")

    with pytest.raises(ValueError, match="two answers"):
        PromptCache(tmp_path, "key").load(refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]
