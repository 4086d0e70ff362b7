"""Grade one response text against one ground truth: extraction, size caps, the layers of equality.

Pure and stateless: the same two texts get the same grade in every process and after any history. It runs in the
workers of the pool, which put limits of time and memory around it; it must stay free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.math.answers import (
    Answer,
    Choice,
    Items,
    Leaf,
    Matrix,
    Named,
    Ratio,
    Relation,
    SetOperation,
)
from megatron_ar3po.rewards.math.equality import Comparison
from megatron_ar3po.rewards.math.extraction import (
    FALLBACK,
    MAX_ANSWER,
    AnswerFormat,
    answer_text,
    extract_answer,
)
from megatron_ar3po.rewards.math.leaves import TooManyComparisons
from megatron_ar3po.rewards.math.reading import read
from megatron_ar3po.rewards.math.tidy import compact, tidy

VERSION = "math-2"  # raise it whenever the same text could be graded differently
MAX_RESPONSE = 500_000
MAX_GROUND_TRUTH = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingOptions:
    """How texts are read. `is_answer`: the text is an answer already, not a whole response. Part of the version."""

    is_answer: bool = False
    answer_format: AnswerFormat = "any"
    strict: bool = False  # exactly one format, no unclosed box
    fallback: bool = True  # without a marked answer the last formula or number counts
    tolerance: str = "0"  # absolute, of numbers
    show_layers: bool = False  # say in the grade what was tried

    @property
    def version(self) -> str:
        marks = "strict" if self.strict else "loose" if self.fallback else "marked"
        return f"{VERSION}:{self.answer_format}:{marks}:{self.tolerance}"


def grade_math(text: str, ground_truth: str, options: GradingOptions | None = None) -> Grade:
    options = options or GradingOptions()
    too_large = _too_large(text, ground_truth)
    if too_large:
        return Grade(status="too_large", reason=too_large)
    if options.is_answer:
        found, mark = answer_text(text), "answer"
    else:
        answer = extract_answer(
            text,
            answer_format=options.answer_format,
            strict=options.strict,
            fallback=options.fallback,
        )
        found, mark = (answer.text, answer.mark) if answer else ("", "")
    if not found.strip():
        return Grade(status="no_answer", reason="the response marks no answer")
    expected = answer_text(ground_truth)
    if len(found) > MAX_ANSWER or len(expected) > MAX_ANSWER:
        side = "answer" if len(found) > MAX_ANSWER else "ground truth"
        return Grade(
            status="too_large", reason=f"the {side} is longer than {MAX_ANSWER} characters"
        )
    reduced = answer_text(found)
    if reduced != found and compact(tidy(found)) != compact(tidy(ground_truth)):
        found = reduced  # "there are 42 of them"; but a ground truth may be such a sentence
    grade = _compare(found, expected, mark, options)
    return replace(grade, is_marked=mark not in ("answer", FALLBACK))


def _compare(found: str, expected: str, mark: str, options: GradingOptions) -> Grade:
    comparison = Comparison(tolerance=Fraction(options.tolerance))
    shown = found if len(found) <= 200 else found[:197] + "..."
    try:
        equal = comparison.equal(expected, found)
    except TooManyComparisons:
        return Grade(status="too_large", extracted=shown, reason="more parts than are compared")
    last = next((line for line in reversed(comparison.tried) if line[:5] != "shape"), "shape")
    return Grade(
        status="correct" if equal else "incorrect",
        extracted=shown,
        reason=f"found by {mark}; {last}"[:300],
        tried=tuple(comparison.tried) if options.show_layers else (),
    )


def _too_large(text: str, ground_truth: str) -> str:
    if len(text) > MAX_RESPONSE:
        return f"the response has {len(text)} characters, more than {MAX_RESPONSE}"
    if len(ground_truth) > MAX_GROUND_TRUTH:
        return f"the ground truth has {len(ground_truth)} characters, more than {MAX_GROUND_TRUTH}"
    return ""


def unusable_ground_truth(text: str) -> str | None:
    """Why no response could ever be graded against this ground truth, or None. It must be readable, and equal itself
    by the same layers that will judge responses (not only by its spelling)."""
    too_large = _too_large("", text)
    if too_large:
        return too_large
    answer = answer_text(text)
    tidied = tidy(answer)
    if not tidied:
        return "it is empty"
    if len(answer) > MAX_ANSWER:
        return f"its answer is longer than {MAX_ANSWER} characters"
    shape = read(tidied)
    unread = _unread_leaf(shape)
    if unread is not None:
        return f"{unread[:80]!r} is neither a number, an expression nor a few words"
    try:
        if not Comparison().answers_equal(shape, shape):
            return f"{answer[:80]!r} does not equal itself"
    except TooManyComparisons:
        return "it has more parts than are compared"
    return None


def _unread_leaf(answer: Answer) -> str | None:
    """The first leaf that no layer can understand."""
    if isinstance(answer, Leaf):
        return None if _is_understood(answer) else answer.text
    parts: tuple[Answer, ...]
    if isinstance(answer, Items):
        parts = answer.items
    elif isinstance(answer, Matrix):
        parts = tuple(cell for row in answer.rows for cell in row)
    elif isinstance(answer, Relation):
        parts = answer.members
    elif isinstance(answer, SetOperation | Ratio):
        parts = answer.parts
    elif isinstance(answer, Named):
        parts = (answer.value,)
    else:
        assert isinstance(answer, Choice)
        return None
    return next((text for part in parts if (text := _unread_leaf(part)) is not None), None)


def _is_understood(leaf: Leaf) -> bool:
    from megatron_ar3po.rewards.math import symbolic

    if leaf.value is not None or leaf.trees or not leaf.text:
        return bool(leaf.text)
    if leaf.text.lstrip("+-").strip() in (r"\infty", r"\emptyset", r"\mathbb{R}"):
        return True
    words = leaf.text.replace(r"\text", "").split()
    if len(words) <= 8 and all(word.strip("{}.,'-()").isalpha() for word in words):
        return True
    is_closed = sum(c in "([{" for c in leaf.text) == sum(c in ")]}" for c in leaf.text)
    if len(leaf.text) <= 24 and "\\" not in leaf.text and is_closed:
        return True  # a name, a base, a time: compared by its spelling
    try:
        symbolic.parse(leaf.text)
    except symbolic.Unsupported:
        return False
    return True
