"""The prompts of the SmolLM2 example. The model itself is too large for a unit test."""

from __future__ import annotations

import re
from collections import Counter

from arithmetic_prompts import FAMILIES, choose_questions, records


def test_families_come_in_turn_and_no_question_is_asked_twice():
    train = choose_questions(24, "train 0")
    heldout = choose_questions(12, "heldout 0", avoid=train)
    assert Counter(family for _, family in train.values()) == dict.fromkeys(FAMILIES, 8)
    assert not set(train) & set(heldout)
    assert train == choose_questions(24, "train 0")


def test_answers_are_right_and_not_in_the_shots():
    for prompt, (answer, family) in choose_questions(90, "any").items():
        *shots, question = prompt.split("\n")
        assert len(shots) == 3 and question not in "\n".join(shots)
        a, b = map(int, re.findall(r"\d+", question))
        right = {
            "*": a * b,
            "+": a + b,
            "gets": a + b,
            "loses": a - b,
            "bags": a * b,
        }
        sign = next(sign for sign in right if sign in question)
        assert int(answer) == right[sign], (family, question)


def test_the_solved_lines_of_every_family_are_right():
    for _, shots in FAMILIES.values():
        for a, sign, b, result in re.findall(r"(\d+) ([*+-]) (\d+) = (\d+)", shots):
            assert {"*": int(a) * int(b), "+": int(a) + int(b), "-": int(a) - int(b)}[sign] == int(
                result
            )


def test_a_line_names_its_family_as_the_source():
    (line,) = records({"2 + 2 =": ("4", "addition")})
    assert line == {"prompt": "2 + 2 =", "answer": "4", "source": "addition"}
