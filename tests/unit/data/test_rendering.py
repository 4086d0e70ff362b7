"""What a prompt renders to: one template, one BOS token, no answer in it, and nothing lost without a word."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import pytest
from fakes.grading_rules import FakeGradingRules

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.preview import preview_prompts
from megatron_ar3po.data.prompt_templates import load_template

# Of DAPO-Math-17k's data card.
DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'
DATA = os.environ.get("AR3PO_TEST_DATA", "")
BOS, START, END, TURN = "<|bos|>", "<|start|>", "<|end|>", "<|turn|>"
SPECIALS = [BOS, START, END, TURN, "<|unk|>"]
LETTERS = " 0123456789+=?abcdefghijklmnopqrstuvwxyzI.{}\\\n:#TBN/"
# As Llama 3's, which writes BOS and today's date.
TEMPLATE = (
    BOS
    + "{% for m in messages %}"
    + START
    + "{{ m.role }}"
    + END
    + "{{ m.content }}"
    + TURN
    + "{% endfor %}"
    "{% if add_generation_prompt %}" + START + "assistant" + END + "{% endif %}"
)
RENDERED = f"{BOS}{START}user{END}2+2?{TURN}{START}assistant{END}"
ANSWERED = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}]
NOW = datetime(2026, 11, 23)


@pytest.fixture(scope="module")
def made():
    """A character tokenizer that adds BOS, with a chat template that writes one."""
    from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

    ensure_torchvision_schemas()
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *LETTERS])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokens.decoder = decoders.Fuse()
    tokens.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token=BOS,
        unk_token="<|unk|>",
        extra_special_tokens=[START, END, TURN],
    )


@pytest.fixture
def tokenizer(made):
    made.chat_template = TEMPLATE
    return made


@pytest.fixture
def load(tmp_path, tokenizer):
    def load(*rows, grading=None, rendered_at=NOW, **options):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load_prompts(
            path,
            tokenizer,
            DataConfig(**options),
            grading=grading or FakeGradingRules(),
            rendered_at=rendered_at,
        )

    return load


def ask(prompt, answer="4", **fields):
    return {"prompt": prompt, "answer": answer, **fields}


def test_a_string_that_was_rendered_before_is_refused_with_its_line(load):
    with pytest.raises(
        ValueError, match=r"jsonl:2: .*begins with the BOS token <\|bos\|>, and .*keep"
    ):
        load(ask("2+2?"), ask(RENDERED))
    with pytest.raises(
        ValueError, match=r"jsonl:2: .*holds '<\|bos\|>' of the chat template.*keep"
    ):
        load(ask("2+2?"), ask(RENDERED), apply_chat_template=True)


@pytest.mark.parametrize("applies", [False, True])
@pytest.mark.parametrize("written", [RENDERED, RENDERED.removeprefix(BOS)])
def test_or_it_is_kept_with_one_bos_and_one_template(load, tokenizer, applies, written):
    """With or without the BOS token that the template writes: ids are those of the chat rendered once."""
    (kept,) = load(ask(written), apply_chat_template=applies, rendered_prompts="keep")
    (chat,) = load(ask([{"role": "user", "content": "2+2?"}]))
    assert kept.token_ids == chat.token_ids
    assert kept.token_ids.count(0) == 1
    assert kept.token_ids.count(tokenizer.convert_tokens_to_ids(START)) == 2


def test_a_string_in_one_template_without_bos_is_what_it_always_was(load):
    """A base model's tokenizer adds BOS to what was rendered elsewhere without: nothing is doubled."""
    (prompt,) = load(ask(RENDERED.removeprefix(BOS)))
    assert prompt.token_ids.count(0) == 1


def test_white_space_before_bos_hides_no_second_one(load):
    with pytest.raises(ValueError, match="begins with the BOS token"):
        load(ask(f" \n{RENDERED}"))
    (kept,) = load(ask(f" \n{RENDERED}"), rendered_prompts="keep")
    assert kept.token_ids.count(0) == 1


def test_a_message_that_was_rendered_before_is_refused(load):
    with pytest.raises(ValueError, match=r"jsonl:1: the user's message .* is rendered already"):
        load(ask([{"role": "user", "content": RENDERED}]), rendered_prompts="keep")


@pytest.mark.parametrize(
    ("template", "written", "is_rendered"),
    [
        (
            "### Instruct: {{ messages[0].content }}\n### Respond:",
            "### Instruct: 2?\n### Respond:",
            True,
        ),
        ("### Instruct: {{ messages[0].content }}\n### Respond:", "### Instruct: 2?", False),
        ("a{{ messages[0].content }}b", "a2+2?b", False),  # too little to know it by
        ("{{ messages[0].content | lower }} ### Respond:", "2 ### Respond:", False),
    ],
)
def test_a_template_without_special_tokens_is_known_by_its_words(
    load, tokenizer, template, written, is_rendered
):
    tokenizer.chat_template = template
    if not is_rendered:
        assert load(ask(written), apply_chat_template=True)
        return
    with pytest.raises(ValueError, match="is rendered already"):
        load(ask(written), apply_chat_template=True)


def test_a_chat_that_ends_with_the_assistants_message_is_refused_or_loses_it(load):
    for role in ("assistant", "Model"):
        answered = [ANSWERED[0], {**ANSWERED[1], "role": role}]
        with pytest.raises(
            ValueError, match=rf"jsonl:2: the chat ends with the {role}'s message 'It is 4"
        ):
            load(ask("2?"), ask(answered))
    (asked,) = load(ask(ANSWERED[:1]))
    (dropped,) = load(ask([*ANSWERED, ANSWERED[1]]), drop_last_assistant=True)
    assert dropped.token_ids == asked.token_ids and "It is" not in dropped.text
    earlier = [*ANSWERED, {"role": "user", "content": "Why?"}]
    (kept,) = load(ask(earlier), drop_last_assistant=True)
    assert "It is 4." in kept.text
    with pytest.raises(ValueError, match="jsonl:1: nothing is left of the chat"):
        load(ask(ANSWERED[1:]), drop_last_assistant=True)


def test_the_date_of_an_option_goes_before_that_of_the_runs_start(load, tokenizer):
    tokenizer.chat_template = "{{ strftime_now('%d') }}" + TEMPLATE
    (today,) = load(ask("2?"), apply_chat_template=True)
    assert today.text.startswith(f"23{BOS}")
    (dated,) = load(ask("2?"), apply_chat_template=True, template_date="2001-02-03")
    assert dated.text.startswith(f"03{BOS}") and dated.prompt_id != today.prompt_id
    with pytest.raises(ValueError, match=r"data\.template_date=tomorrow is no date"):
        DataConfig(template_date="tomorrow")


def test_all_overlong_rows_are_named_or_left_out(load, caplog):
    """Two of three rows have 20 characters and BOS."""
    rows = [ask("2+2?"), ask("1" * 20), ask("2" * 20)]
    with pytest.raises(ValueError) as caught:
        load(*rows, max_prompt_tokens=8)
    said = str(caught.value).splitlines()
    assert said[0] == "2 of 3 prompts have more tokens than data.max_prompt_tokens=8:"
    assert [line.rpartition("jsonl:")[2] for line in said[1:3]] == ["2: 21 tokens", "3: 21 tokens"]
    (kept,) = load(*rows, max_prompt_tokens=8, overlong_prompts="skip")
    assert kept.text == "2+2?"
    assert "2 of 3 prompts" in caplog.text and "jsonl:3: 21 tokens" in caplog.text
    with pytest.raises(ValueError, match="12 of 12 prompts") as caught:
        load(*[ask("1" * n) for n in range(20, 32)], max_prompt_tokens=8, overlong_prompts="skip")
    assert "jsonl:10: 30 tokens\n  and 2 more\n" in str(caught.value)


def test_one_prompt_with_equal_answers_in_two_spellings_is_one(load):
    rows = [ask("half of 1?", "0.5"), ask("half of 1?", "\\frac12"), ask("1?", "1")]
    grading = FakeGradingRules(equal=lambda one, other: True)
    assert [p.ground_truth for p in load(*rows, grading=grading)] == ["0.5", "1"]
    assert grading.compared == [("0.5", "\\frac12")]


def test_answers_that_the_verifier_calls_different_are_refused_with_both_lines(load):
    with pytest.raises(
        ValueError,
        match=r"jsonl:3: the prompt is that of .*jsonl:1, but its answer is '2' and not '1' \(unlike\)",
    ):
        load(ask("1?", "1"), ask("2?", "2"), ask("1?", "2"))


def test_a_source_without_a_verifier_is_refused(load):
    grading = FakeGradingRules(versions={"sums": "v1"})
    assert load(ask("1?", source="sums"), grading=grading)
    rows = [ask("1?", source="sums"), ask("2?", source="words"), ask("3?"), ask("4?", source=None)]
    with pytest.raises(
        ValueError, match=r"'words': 1 lines, the first is .*jsonl:2\n  '': 2 lines, .*jsonl:3"
    ):
        load(*rows, grading=grading)


def test_one_prompt_of_two_sources_with_unlike_verifiers_is_refused(load):
    rows = [ask("1?", source="a"), ask("1?", source="b")]
    assert len(load(*rows, grading=FakeGradingRules(versions={"a": "v1", "b": "v1"}))) == 1
    with pytest.raises(
        ValueError, match=r"jsonl:2: .*source 'b' has another verifier \(v2\) than 'a' \(v1\)"
    ):
        load(*rows, grading=FakeGradingRules(versions={"a": "v1", "b": "v2"}))


def test_characters_that_the_tokenizer_lacks_are_counted_and_said(load, caplog):
    load(ask("1+1?"), ask("√2+√3 é?"))
    assert "1 prompts hold text" in caplog.text
    assert "'√' 2 times, 'é' 1 times; 3 unknown tokens" in caplog.text and "jsonl:2" in caplog.text
    caplog.clear()
    load(ask("1+1?"), ask("a b\n\\c"))
    assert caplog.text == ""


def test_characters_that_vanish_are_counted_too():
    """A tokenizer without an unknown token leaves them out."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.BPE({c: i for i, c in enumerate(LETTERS)}, []))
    tokens.decoder = decoders.Fuse()
    dropping = PreTrainedTokenizerFast(tokenizer_object=tokens)
    assert dropping.decode(dropping.encode("√2")) == "2"
    from megatron_ar3po.data.unknown_characters import UnknownCharacters

    unknown = UnknownCharacters(dropping)
    assert unknown.describe() == ""
    for text in ("√2", "1+1", "3√"):
        unknown.look_at(text, dropping.encode(text), text)
    assert unknown.lost == {"√": 2} and unknown.prompts == ["√2", "3√"]
    said = unknown.describe()
    assert "2 prompts hold text" in said and "0 unknown tokens" in said


def test_the_preview_shows_prompts_as_the_policy_reads_them(load, tokenizer):
    chat = [{"role": "user", "content": "a\nb"}]
    prompts = load(ask(chat, source="sums"), ask("2?"), ask("3?"), ask("4?"))
    first, second, third = preview_prompts(prompts, tokenizer)
    assert first.splitlines() == [
        "prompt 1 of 4: 22 tokens (special: 1 <|bos|>, 2 <|start|>, 2 <|end|>, 1 <|turn|>), answer '4', source 'sums'",
        "    | <|bos|><|start|>user<|end|>a",
        "    | b<|turn|><|start|>assistant<|end|>",
    ]
    assert second.splitlines()[1] == "    | <|bos|>2?" and third.startswith(
        "prompt 3 of 4: 3 tokens"
    )
    assert preview_prompts(prompts, tokenizer, num=0) == []
    (long,) = load(ask("1" * 4000 + "end"), max_prompt_tokens=9000)
    (shown,) = preview_prompts([long], tokenizer)
    assert "[... 2010 characters ...]" in shown and shown.endswith("end") and len(shown) < 2200


# --- the cases of other people's reports


@pytest.mark.skipif(not DATA, reason="needs AR3PO_TEST_DATA")
def test_the_reported_cases_end_as_they_should(load, tokenizer):
    """Each line of reports/prompts.jsonl; the tolerance that is a flag is test_verifier.py's."""
    tokenizer.chat_template = TEMPLATE
    lines = (Path(DATA) / "reports" / "prompts.jsonl").read_text().splitlines()
    rows = {case["case"]: case["row"] for case in map(json.loads, lines)}
    rendered = rows.pop("rendered twice")
    # The tokens of its template, in this tokenizer's spelling.
    spelled = {
        "begin_of_text": "bos",
        "start_header_id": "start",
        "end_header_id": "end",
        "eot_id": "turn",
    }
    for theirs, ours in spelled.items():
        rendered["prompt"] = rendered["prompt"].replace(f"<|{theirs}|>", f"<|{ours}|>")
    for applies in (False, True):
        with pytest.raises(ValueError, match=r"prompts\.jsonl:1: "):
            load(rendered, apply_chat_template=applies)
        (kept,) = load(rendered, apply_chat_template=applies, rendered_prompts="keep")
        assert kept.token_ids.count(0) == 1
    leaked = rows.pop("the answer is in the prompt")
    with pytest.raises(ValueError, match=r"prompts\.jsonl:1: the chat ends with the assistant's"):
        load(leaked)
    (asked,) = load(leaked, drop_last_assistant=True)
    assert "4" not in asked.text
    twice = rows.pop("equal prompts, equal answers in two spellings")
    assert len(load(*twice, grading=FakeGradingRules(equal=lambda one, other: True))) == 1
    overlong = rows.pop("overlong rows")
    long = {**overlong, "prompt": "1" * 5000}
    with pytest.raises(ValueError, match=r"2 of 3 prompts .*=1024:\n.*:1: 5001 tokens\n.*:3: 5001"):
        load(long, overlong, {**long, "prompt": "2" * 5000})
    assert len(load(long, overlong, overlong_prompts="skip")) == 1
    tokenizer.chat_template = "{{ strftime_now('%d') }}" + TEMPLATE
    dated = rows.pop("today's date")
    assert load(dated)[0].prompt_id == load(dated, rendered_at=NOW)[0].prompt_id
    assert set(rows) == {"a flag is no tolerance"}


def test_a_template_stands_around_a_string_and_not_around_a_list_of_messages(load, tmp_path):
    """Braces of LaTeX in either are no places."""
    own = tmp_path / "own.txt"
    own.write_text("I: {prompt}\n\\boxed{}\n")
    question = {"prompt": "2+{2}?", "answer": "4"}
    (prompt,) = load(question, template=str(own))
    assert prompt.text == "I: 2+{2}?\n\\boxed{}"
    (raw,) = load(question)
    assert raw.text == "2+{2}?" and raw.prompt_id != prompt.prompt_id
    (chat,) = load(question, template=str(own), apply_chat_template=True)
    assert f"{END}I: 2+{{2}}?\n\\boxed{{}}{TURN}" in chat.text
    (listed,) = load({**question, "prompt": ANSWERED[:1]}, template=str(own))
    assert "I: " not in listed.text


def test_the_known_templates_are_those_of_their_papers():
    assert "".join(load_template("dapo")) == DAPO_PREFIX + DAPO_SUFFIX
    before, behind = load_template("qwen_boxed")
    assert before.startswith("<|im_start|>system\nPlease reason step by step, and put your final")
    assert behind == "<|im_end|>\n<|im_start|>assistant\n"
    assert load_template("boxed") == ("", "\n\n" + before[19:].partition("<")[0])


def test_a_template_without_a_place_for_the_prompt_and_one_that_is_not_there_are_refused(
    load, tmp_path
):
    question = {"prompt": "2+2?", "answer": "4"}
    own = tmp_path / "own.txt"
    own.write_text("no place")
    with pytest.raises(
        ValueError, match=r"data\.template=.*own\.txt: \{prompt\} stands in it 0 times"
    ):
        load(question, template=str(own))
    with pytest.raises(
        ValueError, match=r"data\.template=boxd is none of raw, boxed, dapo, qwen_boxed"
    ):
        load(question, template="boxd")
    with pytest.raises(ValueError, match="qwen_boxed is a whole chat"):
        DataConfig(template="qwen_boxed", apply_chat_template=True)
