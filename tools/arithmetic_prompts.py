r"""The prompts of `examples/smollm2_arithmetic`: short few-shot arithmetic and one-step word
problems.

Three solved lines, then a question; the answer ends with its line, so a newline token has to end a
response. The shots are the same for all prompts of a family: the server keeps one prefix of each.

    multiplication   "... 9 * 4 = 36\n5 * 3 ="                     -> " 15\n"
    addition         "... 17 + 34 = 51\n28 + 48 ="                 -> " 76\n"
    word problem     "... 2 * 6 = 12\nEva has 4 eggs and gets 6 more."  -> " 4 + 6 = 10\n"
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator

Question = tuple[str, str]  # what is asked, the answer

NAMES = ("Ann", "Ben", "Eva", "Tom", "Mia", "Sam")
THINGS = ("pens", "eggs", "cups", "nuts", "books", "coins")


def multiplication(rng: random.Random) -> Question:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return f"{a} * {b} =", str(a * b)


def addition(rng: random.Random) -> Question:
    a, b = rng.randint(10, 49), rng.randint(10, 49)
    return f"{a} + {b} =", str(a + b)


def word_problem(rng: random.Random) -> Question:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return rng.choice(
        (
            (f"{name} has {a} {things} and gets {b} more.", str(a + b)),
            (f"{name} has {a + b} {things} and loses {b}.", str(a)),
            (f"{name} has {a} bags of {b} {things}.", str(a * b)),
        )
    )


FAMILIES: dict[str, tuple[Callable[[random.Random], Question], str]] = {
    "multiplication": (multiplication, "7 * 8 = 56\n9 * 4 = 36\n5 * 11 = 55\n"),
    "addition": (addition, "25 + 13 = 38\n42 + 29 = 71\n17 + 34 = 51\n"),
    "word_problem": (
        word_problem,
        "Ann has 5 pens and gets 3 more. 5 + 3 = 8\n"
        "Ben has 9 eggs and loses 4. 9 - 4 = 5\n"
        "Eva has 2 bags of 6 nuts. 2 * 6 = 12\n",
    ),
}


def choose_questions(
    num_prompts: int, seed: str, avoid: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """{prompt: (answer, family)}: families in turn, no prompt twice, none of `avoid`, none that its
    shots solve."""
    rng = random.Random(f"questions {seed}")
    chosen: dict[str, tuple[str, str]] = {}
    names = list(FAMILIES)
    while len(chosen) < num_prompts:
        family = names[len(chosen) % len(names)]
        ask, shots = FAMILIES[family]
        question, answer = ask(rng)
        prompt = shots + question
        if question not in shots and prompt not in chosen and prompt not in avoid:
            chosen[prompt] = (answer, family)
    return chosen


def records(questions: dict[str, tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Lines of a prompt file."""
    for prompt, (answer, family) in questions.items():
        yield {"prompt": prompt, "answer": answer, "source": family}
