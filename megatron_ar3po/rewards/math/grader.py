"""Grade one response text against one ground truth: extraction, size caps, the layers of equality.

Pure and stateless: the same two texts get the same grade in every process and after any history. It runs in the
workers of the pool, which put limits of time and memory around it; it must stay free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

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
from megatron_ar3po.rewards.math.evaluated import what_is_left_to_do
from megatron_ar3po.rewards.math.extraction import (
    FALLBACK,
    MAX_ANSWER,
    AnswerFormat,
    answer_text,
    extract_answer,
)
from megatron_ar3po.rewards.math.foreign import foreign_command
from megatron_ar3po.rewards.math.leaves import TooManyComparisons
from megatron_ar3po.rewards.math.reading import read
from megatron_ar3po.rewards.math.tidy import compact, tidy

VERSION = "math-4"  # raise it whenever the same text could be graded differently
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
    require_evaluated: bool = False  # "17+25" is no answer to 42
    show_layers: bool = False  # say in the grade what was tried

    @property
    def version(self) -> str:
        marks = "strict" if self.strict else "loose" if self.fallback else "marked"
        version = f"{VERSION}:{self.answer_format}:{marks}:{self.tolerance}"
        return f"{version}:evaluated" if self.require_evaluated else version


def grade_math(text: str, ground_truth: str, options: GradingOptions | None = None) -> Grade:
    options = options or GradingOptions()
    too_large = _too_large(text, ground_truth)
    if too_large:
        return Grade(status="too_large", reason=too_large)
    found, mark = _find_answer(text, options)
    if not found.strip():
        return Grade(status="no_answer", reason="the response marks no answer")
    expected = _read_as_answer(ground_truth)
    if len(found) > MAX_ANSWER or len(expected) > MAX_ANSWER:
        side = "answer" if len(found) > MAX_ANSWER else "ground truth"
        return Grade(
            status="too_large", reason=f"the {side} is longer than {MAX_ANSWER} characters"
        )
    foreign = foreign_command(found) or foreign_command(expected)
    if foreign and not _spelled_alike(found, ground_truth):
        reason = f"found by {mark}; \\{foreign} is no mathematics, so the answer is not read"
        is_marked = mark not in ("answer", FALLBACK)
        return Grade(
            status="incorrect", extracted=_shorten(found), reason=reason, is_marked=is_marked
        )
    reduced = answer_text(found)
    if reduced != found and not _spelled_alike(found, ground_truth):
        found = reduced  # "there are 42 of them"; but a ground truth may be such a sentence
    return _compare(found, expected, mark, options)


def _find_answer(text: str, options: GradingOptions) -> tuple[str, str]:
    """The answer and the mark it was found by, both empty when there is none."""
    if options.is_answer:
        return _read_as_answer(text), "answer"
    answer = extract_answer(
        text,
        answer_format=options.answer_format,
        strict=options.strict,
        fallback=options.fallback,
    )
    return (answer.text, answer.mark) if answer else ("", "")


def _read_as_answer(text: str) -> str:
    """Of a text that is an answer: what counts. Nothing is taken out of what holds foreign commands, but a box."""
    found = answer_text(text)
    return text if found != text and foreign_command(text) and "\\boxed" not in text else found


def _spelled_alike(left: str, right: str) -> bool:
    return compact(tidy(left)) == compact(tidy(right))


@lru_cache(maxsize=64)
def _exact(tolerance: str) -> Fraction:
    return Fraction(tolerance)


def _compare(found: str, expected: str, mark: str, options: GradingOptions) -> Grade:
    is_marked = mark not in ("answer", FALLBACK)
    comparison = Comparison(tolerance=_exact(options.tolerance))
    try:
        equal = comparison.equal(expected, found)
    except TooManyComparisons:
        return Grade(
            status="too_large",
            extracted=_shorten(found),
            reason="more parts than are compared",
            is_marked=is_marked,
        )
    last = next((line for line in reversed(comparison.tried) if line[:5] != "shape"), "shape")
    if equal and options.require_evaluated and not _spelled_alike(found, expected):
        task = what_is_left_to_do(found, expected)
        if task is not None:
            equal, last = False, f"equal, but it holds {task} that is not carried out"
    return Grade(
        status="correct" if equal else "incorrect",
        extracted=_shorten(found),
        reason=f"found by {mark}; {last}"[:300],
        is_marked=is_marked,
        tried=tuple(comparison.tried) if options.show_layers else (),
    )


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."


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
    answer = _read_as_answer(text)
    tidied = tidy(answer)
    if not tidied:
        return "it is empty"
    if len(answer) > MAX_ANSWER:
        return f"its answer is longer than {MAX_ANSWER} characters"
    foreign = foreign_command(answer)
    if foreign:
        return f"it holds \\{foreign}, which is no mathematics"
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
