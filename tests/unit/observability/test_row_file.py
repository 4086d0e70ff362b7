"""Rows one by one, whole or damaged."""

import json

import pytest

from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.observability.row_file import iter_rows, load_quickly, read_rows


def test_a_damaged_row_is_told_and_the_rest_is_read(tmp_path):
    """Line 2 was changed after it was sealed, line 3 is no JSON, line 5 was being written."""
    path = tmp_path / "rows.jsonl"
    changed = seal_row({"step": 2}).replace(b'"step": 2', b'"step": 7')
    lines = [seal_row({"step": 1}), changed, b"{oops", seal_row({"step": 4}), b'{"step": 5']
    path.write_bytes(b"\n".join(lines))
    told = []
    assert list(iter_rows(path, told.append)) == [{"step": 1}, {"step": 4}]
    assert told == [
        "rows.jsonl:2 is not what was written (its checksum differs)",
        "rows.jsonl:3 is not JSON",
    ]
    with pytest.raises(ValueError, match=r"rows.jsonl:2 is not what was written"):
        read_rows(path)


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"a": NaN}', '{"a": [1.5, "é", null]}'])
def test_the_quick_reader_reads_what_the_other_reads(text):
    assert repr(load_quickly(text.encode())) == repr(json.loads(text))
