"""What a page keeps of the recorded groups."""

import doctest
import json
from itertools import pairwise

from megatron_ar3po.reporting import recorded_groups
from megatron_ar3po.reporting.page import script_json
from megatron_ar3po.reporting.recorded_groups import MAX_CHARACTERS, RecordedGroups, read_groups


def group(step, *texts, status="incorrect", truth="4"):
    responses = [{"text": text, "status": status, "tokens": 3} for text in texts]
    return {"step": step, "prompt": "2+2", "ground_truth": truth, "responses": responses}


def test_the_worked_examples_hold():
    results = doctest.testmod(recorded_groups)
    assert results.attempted and not results.failed


def test_a_group_of_the_first_version_has_no_tokens_and_no_source():
    recorded = RecordedGroups()
    recorded.add(group(1, "5"))
    (shown,) = recorded.groups
    assert (shown["source"], shown["responses"][0]["lengths"]) == ("", [])
    assert shown["responses"][0]["advantage"] is None


def test_many_groups_are_thinned_out_evenly():
    """Of 1,000 steps every eighth or so is kept, from the first to the last, within the bytes that are allowed."""
    recorded = RecordedGroups(max_bytes=160 * 300)
    for step in range(1000):
        recorded.add(group(step, "5" * 40))
    steps = [shown["step"] for shown in recorded.groups]
    apart = {after - before for before, after in pairwise(steps)}
    assert recorded.num_groups == 1000
    assert len(apart) == 1 and 80 <= len(steps) <= 165
    assert steps[0] == 0 and steps[-1] >= 1000 - 2 * apart.pop()


def test_an_answer_of_a_million_characters_is_cut_and_says_so():
    recorded = RecordedGroups()
    recorded.add(group(1, "x" * 1_000_000))
    (response,) = recorded.groups[0]["responses"]
    assert (len(response["text"]), response["cut"]) == (MAX_CHARACTERS, 1_000_000 - MAX_CHARACTERS)


def test_a_text_with_two_verdicts_is_noticed_once_also_in_another_step():
    recorded = RecordedGroups()
    recorded.add(group(1, "4."))
    recorded.add(group(2, "4.", "4.", status="correct"))
    recorded.add(group(3, "4.", "5."))
    assert recorded.two_verdicts == 1
    assert recorded.statuses == {"incorrect": 3, "correct": 2}


def test_rows_of_another_make_are_told(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    path.write_text(
        '{"step": 1}\n[1]\n{"step": 1, "prompt": "", "ground_truth": "", "responses": []}\n'
    )
    told = []
    recorded = read_groups(path, told.append)
    assert (recorded.num_groups, len(told)) == (1, 2)
    assert told[0] == "rollouts.jsonl has a row of another make (KeyError: 'responses')"


def test_a_number_that_is_none_is_no_word_of_a_page(tmp_path):
    """A verifier's reward, a log-prob: the page's JSON would refuse them."""
    row = group(1, "5")
    row["responses"][0] |= {"reward": float("nan"), "advantage": float("inf")}
    row["responses"][0] |= {"logprobs": [float("nan"), -0.5], "token_lengths": [1, 1]}
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(group(1, "5")).replace("3", "1e999"))
    told = []
    recorded = read_groups(path, told.append)
    (shown,) = json.loads(script_json(recorded.groups))[0]["responses"]
    assert (shown["reward"], shown["advantage"], shown["logprobs"]) == (None, None, [None, -0.5])
    assert told == [
        "rollouts.jsonl has a row of another make (OverflowError: cannot convert float infinity to integer)"
    ]


def test_letters_that_take_six_bytes_each_are_counted_so():
    recorded = RecordedGroups(max_bytes=100_000)
    for step in range(100):
        recorded.add(group(step, "和" * 1000))
    assert 50_000 < len(script_json(recorded.groups)) < 100_000
