"""JSONL files, good and bad, through a real fast tokenizer."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.grading_rules import FakeGradingRules
from fakes.model_config import write_model_config

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.data.dataset import load_prompts, prompt_id_of
from megatron_ar3po.data.prompt_rows import digest_prompts
from megatron_ar3po.data.row_files import read_rows
from megatron_ar3po.data.tokenizer import load_tokenizer, stop_token_ids

CHARACTERS = "_$0123456789+=ab"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message') "
    "}}{% endif %}"
    "a{{ m.content }}{% endfor %}{% if add_generation_prompt %}b{% endif %}"
)
MONDAY = datetime(2026, 11, 23, 23, 59, 59)


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with config.json and a character tokenizer whose id is the place in CHARACTERS."""
    from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

    ensure_torchvision_schemas()
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="_"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokens.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="$", pad_token="_")
    fast.chat_template = TEMPLATE
    folder = tmp_path / "model"
    fast.save_pretrained(folder)
    return write_model_config(
        folder, model_type="qwen2", vocab_size=len(CHARACTERS), eos_token_id=1
    )


@pytest.fixture
def tokenizer(checkpoint):
    return load_tokenizer(checkpoint)


@pytest.fixture
def load(tmp_path, tokenizer):
    def load(
        content: str | bytes,
        vocab_size: int | None = None,
        rendered_at: datetime = MONDAY,
        grading: FakeGradingRules | None = None,
        **options,
    ):
        path = tmp_path / "prompts.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        config = DataConfig(**options)
        return load_prompts(
            path,
            tokenizer,
            config,
            grading=grading or FakeGradingRules(),
            rendered_at=rendered_at,
            vocab_size=vocab_size,
        )

    return load


def line(**record) -> str:
    return json.dumps(record) + "\n"


def test_a_line_becomes_a_prompt_with_tokens_answer_source_and_metadata(load):
    (prompt,) = load(line(prompt="1+2=", answer="3", source="sums", level=4))
    assert prompt.token_ids == (3, 12, 4, 13)
    assert (prompt.text, prompt.ground_truth, prompt.source) == ("1+2=", "3", "sums")
    assert prompt.metadata == {"level": 4}


def test_fields_can_have_other_names_and_blank_lines_and_a_byte_order_mark_are_fine(load):
    content = (
        b"\xef\xbb\xbf"
        + line(question="1+2=", gold="3").encode()
        + b"\r\n\n"
        + line(question="2=", gold="2").encode()
    )
    found = load(content, prompt_field="question", answer_field="gold")
    assert [p.ground_truth for p in found] == ["3", "2"]


def test_a_chat_template_wraps_a_string_or_a_list_of_messages(load):
    asked = [{"role": "user", "content": "1+2="}]
    (from_string,) = load(line(prompt="1+2=", answer="3"), apply_chat_template=True)
    (from_list,) = load(line(prompt=asked, answer="3"))
    assert from_string == from_list
    assert from_string.text == "a1+2=b"
    assert from_string.token_ids == (14, 3, 12, 4, 13, 15)


# As Llama 3.x's: a date that nobody gives is today's.
DATED = [
    "{{ strftime_now('%d') }}",
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
    "{{ date_string }}",
    "{% macro date() %}{{ strftime_now('%d') }}{% endmacro %}{{ date() }}",
]


@pytest.mark.parametrize("date", DATED)
def test_a_chat_template_that_writes_the_date_writes_the_one_it_is_given(load, tokenizer, date):
    """Whatever the clock says: the prompts of a run that goes on after midnight have the same tokens and ids."""
    tokenizer.chat_template = date + TEMPLATE
    asked = line(prompt="1+2=", answer="3")
    (first,) = load(asked, apply_chat_template=True)
    assert first.text == "23a1+2=b"
    (again,) = load(asked, apply_chat_template=True, rendered_at=MONDAY)
    assert again == first
    (next_day,) = load(asked, apply_chat_template=True, rendered_at=MONDAY + timedelta(seconds=1))
    assert next_day.text == "24a1+2=b" and next_day.prompt_id != first.prompt_id


def test_a_files_checksum_is_that_of_what_is_asked_and_what_is_right(tmp_path):
    """In any order, however often; other fields do not count but for a prompt's own tolerance."""

    def digest(*lines: str, first: int = 0, is_ordered: bool = False, **options: str):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(lines))
        return digest_prompts(path, DataConfig(**options), first=first, is_ordered=is_ordered)

    one, two = line(prompt="1=", answer="1"), line(prompt="2=", answer="2")
    both = digest(one, two)
    assert both[0] == 2 and both == digest(two, one, "\n", one)
    assert both == digest(one, line(answer="2", level=3, prompt="2="))
    assert both == digest(*(text.replace("prompt", "q") for text in (one, two)), prompt_field="q")
    assert digest(one, two, is_ordered=True) != digest(two, one, is_ordered=True)
    assert digest(one, two, first=1) == digest(one) != digest(two)
    others = [
        digest(one),
        digest(one, line(prompt="2=", answer="3")),
        digest(one, line(prompt="3=", answer="2")),
        digest(one, line(prompt="2=", answer="2", error=0.1)),
    ]
    assert len({both, *others}) == 5
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: not JSON"):
        digest(one, "{\n", two)
    assert digest(one, "{\n", two, broken_rows="skip") == both


def own_tolerance(metadata):
    return {"tolerance": metadata["error"]} if "error" in metadata else {}


def test_two_prompts_that_differ_in_their_tolerance_alone_are_two(load):
    """A prompt without one has the id that it would have if nobody had any."""

    def id_of(**error) -> str:
        record = line(prompt="1+2=", answer="3", **error)
        (prompt,) = load(record, grading=FakeGradingRules(options=own_tolerance))
        return prompt.prompt_id

    plain = prompt_id_of((3, 12, 4, 13), "3", "v1", "")
    assert id_of() == plain
    assert len({plain, id_of(error="0.1"), id_of(error="0.2")}) == 3
    (unread,) = load(line(prompt="1+2=", answer="3", error="0.1"))  # another verifier ignores it
    assert unread.prompt_id == plain


def test_one_prompt_with_two_tolerances_is_refused_with_both_lines(load):
    twice = line(prompt="1+2=", answer="3", error="0.1") + line(prompt="1+2=", answer="3")
    with pytest.raises(
        ValueError, match=r"jsonl:2: .* those of .*jsonl:1, .*no tolerance and not .*'0\.1'"
    ):
        load(twice, grading=FakeGradingRules(options=own_tolerance))


def test_identity_changes_with_answer_verifier_and_template_and_with_nothing_else(load):
    (prompt,) = load(line(prompt="1+2=", answer="3"))
    assert prompt.prompt_id == prompt_id_of((3, 12, 4, 13), "3", "v1", "")
    assert len(prompt.prompt_id) == 32
    (same,) = load("\n" + line(prompt="1+2=", answer="3", source="elsewhere", level=1))
    assert same.prompt_id == prompt.prompt_id
    (answer,) = load(line(prompt="1+2=", answer="4"))
    (verifier,) = load(
        line(prompt="1+2=", answer="3"), grading=FakeGradingRules(versions={"": "v2"})
    )
    (template,) = load(line(prompt="1+2=", answer="3"), apply_chat_template=True)
    assert len({p.prompt_id for p in (prompt, answer, verifier, template)}) == 4


def test_a_repeated_line_is_loaded_once_and_said_so(load, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(load(line(prompt="1+2=", answer="3") * 3)) == 1
    assert "2 repeated lines" in caplog.text


GOOD = line(prompt="1=", answer="1")
BAD_LINES = {
    "no json": ('{"prompt": "1=", "answer"\n', "not JSON"),
    "not an object": ('["1=", "1"]\n', "no JSON object"),
    "not text": (b'{"prompt": "\xff", "answer": "1"}\n', "not JSON"),
    "no prompt": (
        line(question="1=", answer="1"),
        r"no field 'prompt' \(data.prompt_field\), only \['answer', 'question'\]",
    ),
    "no answer": (line(prompt="2="), r"no answer: field 'answer' \(data.answer_field\) is missing"),
    "empty answer": (line(prompt="2=", answer=" "), "must be a non-empty string"),
    "answer is a number": (
        line(prompt="2=", answer=2),
        "the answer 'answer' is 2; it must be a non-empty string",
    ),
    "empty prompt": (line(prompt=" ", answer="2"), "'prompt' is ' '"),
    "prompt is a number": (line(prompt=2, answer="2"), "'prompt' is 2"),
    "no messages": (line(prompt=[], answer="2"), "list of chat messages"),
    "message without content": (
        line(prompt=[{"role": "user"}], answer="2"),
        "list of chat messages",
    ),
    "roles": (
        line(prompt=[{"role": "system", "content": "1"}], answer="2"),
        "refuses the messages: no system message",
    ),
    "half a surrogate": ('{"prompt": "\\ud800", "answer": "2"}\n', "no valid Unicode"),
    "too long": (
        line(prompt="1+1+1+1+1=", answer="5"),
        r"1 of 3 prompts .* data.max_prompt_tokens=8:\n.*jsonl:3: 10 tokens",
    ),
    "conflict": (
        line(prompt="1=", answer="7"),
        r"prompts.jsonl:1, but its answer is '7' and not '1'",
    ),
    "nested too deep": ("[" * 100_000 + "\n", "not JSON"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_by_file_and_number(load, name):
    bad, message = BAD_LINES[name]
    content = (
        GOOD.encode() + b"\n" + (bad if isinstance(bad, bytes) else bad.encode()) + GOOD.encode()
    )
    with pytest.raises(ValueError, match=message) as caught:
        load(content, max_prompt_tokens=8)
    assert "prompts.jsonl:3: " in str(caught.value)


def test_a_token_the_model_does_not_know_is_refused(load):
    assert load(GOOD, vocab_size=14)
    with pytest.raises(
        ValueError, match=r"prompts.jsonl:1: token 13 is outside the model's vocabulary of 13"
    ):
        load(GOOD, vocab_size=13)


def test_an_empty_or_missing_file_is_refused(load, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no prompt in the file"):
        load("\n")
    with pytest.raises(
        ValueError, match=r"missing.jsonl: the prompts cannot be read \(No such file"
    ):
        load_prompts(
            tmp_path / "missing.jsonl",
            tokenizer,
            DataConfig(),
            grading=FakeGradingRules(),
            rendered_at=MONDAY,
        )


def test_a_chat_without_a_template_is_refused(load, tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(
        ValueError, match=r"prompts.jsonl:1: the prompt is a chat, but .* no chat template"
    ):
        load(GOOD, apply_chat_template=True)


def test_stop_tokens_come_from_tokenizer_config_generation_config_and_options(
    checkpoint, tokenizer
):
    assert stop_token_ids(checkpoint, tokenizer) == (1,)
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    assert stop_token_ids(checkpoint, tokenizer, extra=[7]) == (1, 5, 7)


def test_a_model_without_a_stop_token_or_with_one_outside_its_vocabulary_is_refused(
    checkpoint, tokenizer
):
    with pytest.raises(
        ValueError, match=r"stop tokens \[1, 16\] do not all lie in the model's vocabulary 0..15"
    ):
        stop_token_ids(checkpoint, tokenizer, extra=[16])
    write_model_config(checkpoint, vocab_size=16)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no response would ever end"):
        stop_token_ids(checkpoint, tokenizer)


def test_a_folder_without_a_model_without_a_tokenizer_or_with_another_models_is_refused(
    checkpoint, tmp_path
):
    with pytest.raises(ValueError, match=r"model.path=.*nowhere holds no config.json"):
        load_tokenizer(tmp_path / "nowhere")
    write_model_config(checkpoint, model_type="qwen2", vocab_size=8)
    with pytest.raises(ValueError, match=r"has 16 tokens, but config\.json has vocab_size=8"):
        load_tokenizer(checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer .*copy the tokenizer files"):
        load_tokenizer(checkpoint)


ODD_ANSWERS_ARE_UNUSABLE = FakeGradingRules(
    unusable=lambda prompt: "it is odd" if int(prompt.ground_truth) % 2 else None
)


def test_unusable_answers_are_listed_with_their_lines_and_refused(load):
    content = line(prompt="1+2=", answer="3") + line(prompt="2=", answer="2")
    with pytest.raises(ValueError, match=r"1 of 2 answers can never be graded") as raised:
        load(content, grading=ODD_ANSWERS_ARE_UNUSABLE)
    said = str(raised.value)
    assert "prompts.jsonl:1: '3': it is odd" in said and "prompts.jsonl:2" not in said
    assert "data.unusable_answers=skip" in said and "ar3po grade --check" in said


def test_unusable_answers_are_left_out_and_told_when_the_option_says_so(load, caplog):
    content = line(prompt="1+2=", answer="3") + line(prompt="2=", answer="2")
    (prompt,) = load(content, grading=ODD_ANSWERS_ARE_UNUSABLE, unusable_answers="skip")
    assert prompt.ground_truth == "2"
    assert "prompts.jsonl:1: '3': it is odd" in caplog.text


def test_a_file_of_nothing_but_unusable_answers_is_refused_even_when_skipping(load):
    content = "".join(line(prompt=f"{i}=", answer=str(i)) for i in range(1, 26, 2) if i < 10)
    content += line(prompt="1+2=", answer="3")
    with pytest.raises(ValueError, match=r"6 of 6 answers"):
        load(content, grading=ODD_ANSWERS_ARE_UNUSABLE, unusable_answers="skip")


def test_a_parquet_file_gives_the_prompts_of_a_jsonl_file(load, tokenizer, tmp_path):
    rows = [
        {"q": [{"content": "1+2="}], "gold": {"text": "3"}},
        {"q": [{"content": "2="}], "gold": {"text": "2"}},
    ]
    fields = {"prompt_field": "q.0.content", "answer_field": "gold.text"}
    listed = load("".join(line(**row) for row in rows), **fields)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=1)
    found = load_prompts(
        tmp_path / "rows.parquet",
        tokenizer,
        DataConfig(**fields),
        grading=FakeGradingRules(),
        rendered_at=MONDAY,
    )
    assert list(found) == list(listed) and found[1].text == "2="


def test_broken_rows_are_all_named_and_left_out_where_the_option_says_so(load, caplog):
    content = GOOD + "{\n" + line(prompt="2=") + line(prompt="2=", answer="2")
    with pytest.raises(ValueError, match="2 rows are broken") as refused:
        load(content)
    for said in (
        "prompts.jsonl:2: not JSON",
        "prompts.jsonl:3: no answer",
        "data.broken_rows=skip",
    ):
        assert said in str(refused.value)
    with caplog.at_level(logging.WARNING):
        assert [p.ground_truth for p in load(content, broken_rows="skip")] == ["1", "2"]
    assert "2 rows are broken" in caplog.text and "prompts.jsonl:3" in caplog.text
    with pytest.raises(ValueError, match=r"prompts\.jsonl:1: not JSON"):
        load("{\n{\n", broken_rows="skip")


def test_a_number_too_long_to_read_and_a_source_that_is_no_text_are_broken_rows(load):
    """Neither takes the rows around it along."""
    content = GOOD + f'{{"prompt": "2=", "answer": {"1" * 5000}}}\n'
    content += line(prompt="3=", answer="3", source="\ud800") + line(prompt="4=", answer="4")
    with pytest.raises(ValueError, match="2 rows are broken") as refused:
        load(content)
    assert "prompts.jsonl:2: not JSON (Exceeds the limit" in str(refused.value)
    assert "prompts.jsonl:3: the source is no valid Unicode text" in str(refused.value)
    assert [p.ground_truth for p in load(content, broken_rows="skip")] == ["1", "4"]


def test_a_prompt_of_ten_megabytes_is_overlong_and_is_not_tokenized(load):
    content = GOOD + line(prompt="1" * 10**7, answer="2")
    with pytest.raises(ValueError, match=r"1 of 2 prompts.*\n.*jsonl:2: 10000000 characters"):
        load(content)
    assert len(load(content, overlong_prompts="skip")) == 1


def test_a_damaged_row_group_is_named_by_its_rows_and_the_others_are_read(
    load, tokenizer, tmp_path
):
    path = tmp_path / "rows.parquet"
    rows = [{"prompt": f"{n}=", "answer": f"{n}"} for n in range(10, 40)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)

    def read(**options):
        return load_prompts(
            path, tokenizer, DataConfig(**options), grading=FakeGradingRules(), rendered_at=MONDAY
        )

    with pytest.raises(
        ValueError, match=r"rows\.parquet:11: the rows 11 to 20 \(row group 2\) are damaged"
    ):
        read()
    assert len(read(broken_rows="skip")) == 20


def test_a_row_of_a_parquet_file_that_is_no_utf8_takes_no_other_along(tmp_path):
    """Of one row group. A value that has no JSON of its own is text."""
    texts = pa.array(["a", "?", "c"]).buffers()
    bad = pa.Array.from_buffers(pa.string(), 3, [None, texts[1], pa.py_buffer(b"a\xffc")])
    keys = pa.array([bytes(16)] * 3, pa.uuid())
    pq.write_table(pa.table({"prompt": bad, "key": keys}), tmp_path / "rows.parquet")
    broken = []
    found = list(read_rows(tmp_path / "rows.parquet", broken.append))
    assert [(where[-2:], row["prompt"]) for where, row in found] == [(":1", "a"), (":3", "c")]
    assert found[0][1]["key"] == "00000000-0000-0000-0000-000000000000"
    [said] = broken
    assert "rows.parquet:2: the row cannot be read ('utf-8' codec can't decode" in said


def test_a_cut_off_parquet_file_is_named(tokenizer, tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["1="] * 99, "answer": ["1"] * 99}), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"rows\.parquet: this Parquet file is cut off"):
        load_prompts(path, tokenizer, DataConfig(), grading=FakeGradingRules(), rendered_at=MONDAY)


def test_several_files_are_one_table_in_which_a_prompt_belongs_to_the_first(tokenizer, tmp_path):
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    files[0].write_text(line(prompt="1=", answer="1") + line(prompt="2=", answer="2"))
    files[1].write_text(line(prompt="2=", answer="2") + line(prompt="3=", answer="3"))
    found = load_prompts(
        files, tokenizer, DataConfig(), grading=FakeGradingRules(), rendered_at=MONDAY
    )
    assert [p.ground_truth for p in found] == ["1", "2", "3"]
    assert found.num_rows_by_file(2) == [2, 1]
    files[1].write_text(line(prompt="2=", answer="3"))
    with pytest.raises(ValueError, match=r"two\.jsonl:1: the prompt is that of .*one\.jsonl:2"):
        load_prompts(files, tokenizer, DataConfig(), grading=FakeGradingRules(), rendered_at=MONDAY)


@pytest.mark.parametrize("content", ["", line(prompt="1=", answer="1")])
def test_a_file_of_which_no_prompt_is_left_is_refused_and_not_left_out_unsaid(
    content, tokenizer, tmp_path
):
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    files[0].write_text(line(prompt="1=", answer="1") + line(prompt="2=", answer="2"))
    files[1].write_text(content)
    with pytest.raises(ValueError, match=r"two\.jsonl: no prompt of this file is left"):
        load_prompts(files, tokenizer, DataConfig(), grading=FakeGradingRules(), rendered_at=MONDAY)


def test_a_mixture_and_a_path_are_one_too_many_and_a_weight_is_above_0():
    with pytest.raises(
        ValueError, match=r"data\.mixture names the training files, so data\.path=a"
    ):
        DataConfig(path="a", mixture={"b": 1.0})
    with pytest.raises(ValueError, match=r"data\.mixture: the weight of b is 0"):
        DataConfig(mixture={"b": 0.0})
