r"""The final answer of a response.

Marks, from the text itself: `<answer>...</answer>`, which goes before all others, `\boxed{...}` (nested, unclosed,
several side by side), an `Answer:` line (DAPO), `####` (GSM8K), "the answer is". Of these the one that stands last
wins; what follows it up to the end of its sentence is the answer.
Without a mark, and only when `fallback` allows it, the last formula or number counts. The strict mode knows one mark
and no second chance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from megatron_ar3po.rewards.math.foreign import foreign_command
from megatron_ar3po.rewards.math.spoken import MAX_TAIL, spoken_part
from megatron_ar3po.rewards.math.tags import find_tag

AnswerFormat = Literal["any", "boxed", "answer_line", "hashes", "answer_tag"]

MAX_ANSWER = 4_000
FALLBACK = "last formula or number"  # the mark of an answer that is not marked


@dataclass(frozen=True)
class Found:
    """An answer text and the mark it was found by."""

    text: str
    mark: str
    start: int = 0
    end: int = 0  # of a box


_BOX = re.compile(
    r"(?:\\boxed|\\box|\\fbox|\\framebox|\x08oxed)\s*(?=\{)|\\boxed\s+(?=[-\w\\])|\\boxed(?=[-\d])"
)
_ESCAPED_OR_BRACE = re.compile(r"\\.|[{}]|\n\s*\n", re.DOTALL)
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;&.~]|\\[(),;:!\[\] ]|\\\\|\\q?quad|\\text\s*\{[ ,]*(?:and|or)?[ ,]*\}|\band\b|\bor\b)*"
)
_LABELLED_GAP = re.compile(
    r"(.*?)([A-Za-z])(?:_\{?\w\}?)?\s*=\s*", re.DOTALL
)  # between x=\boxed{2} and x=\boxed{3}
_BETWEEN_FORMULAS = re.compile(r"\s*(?:,\s*(?:and|or)?|;|and|or)\s*")
_LABEL = re.compile(r"[A-Za-z][A-Za-z ]{2,40}[:：]\s*(?=.*\d)", re.DOTALL)
_HASHES = re.compile(r"^[ \t]*#{4}[ \t]*(?![#\s])(.+)$", re.MULTILINE)
_ANSWER_LINE = re.compile(
    r"^[ \t>*_#-]{0,12}(?:the )?(?:final )?(?:answer|A)(?:\*\*|__)?[ \t]{0,4}[:：]"
    r"[ \t]{0,8}(?:\*\*|__)?[ \t]{0,8}\n?[ \t]{0,8}(\S[^\n]*)",
    re.MULTILINE | re.IGNORECASE,
)
_ANSWER_IS = re.compile(
    r"\b(?:final answer|answers?|ans|(?:correct|right) (?:option|choice))\b[^.:\n$\\\d=]{0,40}?(?:\bis\b|\bare\b|=|:)"
    r"[ \t]{0,4}(?:[:,]|\.\.\.)?[ \t]{0,8}(?:(?:therefore|thus|hence|simply|just|only|then|indeed|clearly|now)\b,?)?"
    r"\s{0,8}(?=(\S[^\n]*))",
    re.IGNORECASE,
)
# What a sentence adds behind its answer.
_ASIDE = re.compile(
    r",? (?:because|since|rather than|as (?:we|it|the|this|that)|which|where)\b"
    r"|, (?:not|as|so|or about|or approximately)\b"
    r"| \((?:since|because|as|about|approximately|or|i\.e\.|which|where)\b"
)
_NOT_BUT = re.compile(r"not\b[^.\n]{1,80}?\bbut\s+")
_GLOSS = re.compile(  # 42 (forty-two), 16 cm (about 6.3 inches)
    r"(?<=[\d$%]) \([A-Za-z]{3}[A-Za-z -]*\)$|(?<=\w) \((?:about|approximately|approx\.?|or) [^()]{1,40}\)$"
)
_COPULA = re.compile(
    r"(?:\\text[a-z]* ?\{)?[A-Za-z][A-Za-z ,'-]{0,60}\b(?:is|are|was|were|equals|year)\b:? ?\}?\s*"
    r"(?=[-+\d$\\(\[]|[A-Z]\b|[a-z] ?=)"
)
_OF_SOMETHING = re.compile(
    r"(?<=\$) of (?:the|a|an|all|his|her|their|its)\b[^$\\\d]*$|(?<=\d) of (?:them|these|those)\b[^$\\\d]*$"
)
_FACTORIAL = re.compile(r"(?<=[\d)}])!(?=\s*$)")  # behind a formula; in prose it would be joy
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z\[(<]|\s*$)|<\||\*\*\s*$")
_MATH = (
    re.compile(  # a formula has a length, so that a thousand openings without an end cost little
        r"\$\$(.{1,1000}?)\$\$|\$([^$]{1,1000}?)\$(?!\d)|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]",
        re.DOTALL,
    )
)
_NUMBER_IN_TEXT = re.compile(
    r"(?<![\w.^{\\/])(?:(?<![\w)\]}])-)?\\?\$?(?:(?<![\w)\]}])-)?"
    r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+\b|\s\d+/\d+|/\d+)?"
    r"(?![\d^}]|[eE][+-]?\d)"  # a base, or what stands in braces, is no answer
    r"(?:\s?\\?%|(?:\s(?:percent|pct)\b))?",
    re.ASCII,
)
_DECIMAL_COMMA = re.compile(r"(?<![\w.,])\d+,\d{1,2}(?![\d,])")
_WORD = re.compile(r"[A-Za-z]{2,}")
_CONNECTORS = frozenset(("and", "or", "percent", "pct", "percentage", "per", "cent"))


def extract_answer(
    text: str, *, answer_format: AnswerFormat = "any", strict: bool = False, fallback: bool = True
) -> Found | None:
    r"""The final answer, or None.

    >>> extract_answer(r"so $x = \boxed{\frac{1}{2}}$.").text, extract_answer("Answer: 7").text
    ('\\frac{1}{2}', '7')
    """
    text = spoken_part(text)
    tag = find_tag(text, strict=strict) if answer_format in ("any", "answer_tag") else None
    if tag is not None:
        return Found(tag, "answer tag")
    marks = [_find_box(text, strict=strict)] if answer_format in ("any", "boxed") else []
    if answer_format in ("any", "answer_line"):
        marks.append(_last_of(_ANSWER_LINE, text, "answer line"))
    if answer_format in ("any", "hashes") and "####" in text:
        marks.append(_last_of(_HASHES, text, "####"))
    if answer_format == "any" and not strict:
        start = _first_announcement(text)
        marks += [_last_of(_ANSWER_IS, text, "answer is", start)] if start >= 0 else []
    box = marks[0] if answer_format in ("any", "boxed") else None
    if box:  # "\boxed{the answer is 5}"
        marks = [m for m in marks if m is box or not m or not box.start <= m.start < box.end]
    found = max((mark for mark in marks if mark), key=lambda mark: mark.start, default=None)
    if found is not None or strict or not fallback:
        return found
    last = _last_of_text(text)
    return Found(last, FALLBACK) if last and not foreign_command(text[-200:]) else None


def _first_announcement(text: str) -> int:
    """Where _ANSWER_IS may match first, by the words it begins with; -1 where nowhere. Much cheaper to ask."""
    lowered = text.lower()
    found = [at for at in map(lowered.find, ("ans", "option", "choice")) if at >= 0]
    if not found:
        return -1
    return max(0, min(found) - len("correct ")) if len(lowered) == len(text) else 0


def answer_text(text: str) -> str:
    """What counts of a text that is meant to be an answer already, but may be a sentence or a whole solution."""
    stripped = text.strip()
    if len(stripped) < 12 and "\\" not in stripped and "$" not in stripped:
        return stripped
    marked = (
        extract_answer(stripped, fallback=False)
        if _is_prose(stripped)
        else _find_box(stripped[-MAX_TAIL:], strict=False)
    )
    if marked is not None and marked.text:
        return marked.text
    return _core(stripped) or stripped


# --- boxes


def _find_box(text: str, *, strict: bool) -> Found | None:
    """The last box; boxes side by side ("\\boxed{1} and \\boxed{2}") are one list."""
    first = text.find("box") if "\x08" not in text else 0
    if first < 0:
        return None
    starts = list(_BOX.finditer(text, max(0, first - len("\\frame"))))
    if not starts:
        return None
    outer: list[tuple[int, int, str, bool]] = []
    for match in starts[-64:]:
        if outer and match.start() < outer[-1][1]:
            continue  # inside the box before it
        content, end, closed = _box_content(text, match.end())
        outer.append((match.start(), end, content, closed))
    outer = [box for box in outer if _unbox(box[2])] or outer  # an empty one marks nothing
    last = outer.pop()
    if strict and not last[3]:
        return None
    run = [last]
    while (
        outer and outer[-1][3] and _is_between(text[outer[-1][1] : run[0][0]], text[: outer[-1][0]])
    ):
        run.insert(0, outer.pop())
    contents = list(dict.fromkeys(_unbox(content) for _, _, content, _ in run))
    contents = [content for content in contents if content.strip()]
    if not contents or (strict and len(run) > 1):
        return None if not contents else Found(_unbox(last[2]), "box", last[0], last[1])
    return Found(", ".join(contents), "box", last[0], last[1])


def _is_between(gap: str, before: str) -> bool:
    """Only commas, "and", "or" between two boxes; or both are values of one letter: x = \boxed{2} or x = \boxed{3}."""
    if len(gap) > 80:
        return False
    labelled = _LABELLED_GAP.fullmatch(gap)
    if labelled:
        first = _LABELLED_GAP.fullmatch(before[-40:])
        if first is None or first[2] != labelled[2]:
            return False
        gap = re.sub(r"\band\b|\bor\b", "", labelled[1])
    return _BETWEEN_BOXES.fullmatch(gap) is not None


def _box_content(text: str, start: int) -> tuple[str, int, bool]:
    if text[start : start + 1] != "{":  # \boxed 5
        token = re.compile(r"\\[A-Za-z]+|[-\w.]+").match(text, start)
        return (token[0], token.end(), True) if token else ("", start, False)
    depth = 0
    for match in _ESCAPED_OR_BRACE.finditer(text, start):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : match.start()], match.end(), True
        elif match[0].startswith("\n"):
            break
    unclosed = re.split(r"\n|\$|\\\]|\\\)", text[start + 1 :], maxsplit=1)[0]
    return unclosed, start + 1 + len(unclosed), False


def _unbox(content: str) -> str:
    """Without boxes inside."""
    for _ in range(8):
        match = _BOX.search(content)
        if match is None or content[match.end() : match.end() + 1] != "{":
            return content.strip()
        inside, end, _ = _box_content(content, match.end())
        content = content[: match.start()] + inside + content[end:]
    return content.strip()


# --- lines and sentences


def _last_of(pattern: re.Pattern[str], text: str, mark: str, start: int = 0) -> Found | None:
    for match in reversed(list(pattern.finditer(text, start))[-8:]):
        sentence = _with_its_formula(text, match.start(1), match[1])
        if sentence.isdecimal():  # as most are
            return Found(sentence, mark, match.start())
        is_line = mark == "answer line"  # "Final Answer: the final answer is 5."
        start = _first_announcement(sentence) if is_line else -1
        inner = _last_of(_ANSWER_IS, sentence, "answer is", start) if start >= 0 else None
        answer = inner.text if inner else _sentence_answer(sentence, is_prose=mark == "answer is")
        if answer:
            return Found(answer, mark, match.start())
    return None


def _with_its_formula(text: str, start: int, line: str) -> str:
    """A displayed formula that begins the line, to its end."""
    formula = _MATH.match(text, start) if line.startswith(("$$", "\\[")) else None
    return text[start : max(formula.end(), start + len(line))] if formula else line


def _sentence_answer(sentence: str, *, is_prose: bool) -> str | None:
    box = _find_box(sentence, strict=False)
    if box is not None:
        return box.text
    masked = _mask_formulas(sentence)
    end = _SENTENCE_END.search(masked if is_prose else _FACTORIAL.sub("x", masked))
    sentence = sentence[: end.start()] if end else sentence
    sentence = (
        _NOT_BUT.sub("", sentence.lstrip(" ,."), count=1)
        if sentence.startswith("not")
        else sentence
    )
    aside = _ASIDE.search(_mask_formulas(sentence))
    if aside and aside.start():
        sentence = sentence[: aside.start()]
    return _core(_unquote(sentence))


def _unquote(text: str) -> str:
    while True:
        stripped = text.strip(" \t*_\"'").removeprefix('\\"')
        if stripped.endswith("\\") and not stripped.endswith("\\\\"):
            stripped = stripped[:-1]
        if stripped == text:
            return text
        text = stripped


def _mask_formulas(sentence: str) -> str:
    """Formulas blanked out, so that a full stop inside one ends no sentence."""
    if "$" not in sentence and "\\" not in sentence:
        return sentence
    return _MATH.sub(lambda match: "x" * len(match[0]), sentence)


def _core(text: str) -> str | None:
    """The answer inside a short text: all of it, or its last formula or number when words stand around."""
    if not text:
        return None
    label = _LABEL.match(text)
    if label and "$" not in text[: label.end()]:
        text = text[label.end() :]
        if _DECIMAL_COMMA.match(text):
            return _last_of_text(text)
    text = _OF_SOMETHING.sub("", _GLOSS.sub("", text)) or text
    copula = _COPULA.match(text)
    if copula:
        text = text[copula.end() :]
    if not _is_prose(text):
        return text
    return _last_of_text(text)


def _is_prose(text: str) -> bool:
    """Words around the answer, other than a unit behind it."""
    formula = _MATH.search(text) if "$" in text or "\\" in text else None
    if formula:
        return _has_words(text[: formula.start()]) or _has_words(_MATH.sub(" ", text), 4)
    if r"\begin" in text or r"\text" in text:
        return _has_words(_BEGIN_OR_TEXT.split(text)[0], 2) or _has_words(text, 9)
    return _has_words(text, 4) and bool(_DIGIT.search(text)) and not _NUMBER_AND_UNIT.match(text)


_BEGIN_OR_TEXT = re.compile(r"\\begin|\\text")
_DIGIT = re.compile(r"\d")
_NUMBER_AND_UNIT = re.compile(r"\\?\$?[-\d.,]+ ?[A-Za-z]")
_COMMAND = re.compile(r"\\text[a-z]*\s*\{[^{}]*\}|\\[A-Za-z]+")


def _has_words(text: str, at_least: int = 1) -> bool:
    """Whether so many words stand in it that are no connectors and no abbreviations."""
    bare = _COMMAND.sub(" ", text) if "\\" in text else text
    num_words = 0
    for word in _WORD.findall(bare):
        if not word.isupper() and word.lower() not in _CONNECTORS:
            num_words += 1
            if num_words == at_least:
                return True
    return False


def _last_of_text(text: str) -> str | None:
    """The last formula or number, whichever ends later."""
    formula = _last_formula(text)
    number = None
    masked = _mask_formulas(text)
    for match in _NUMBER_IN_TEXT.finditer(masked):
        number = (match.end(), match[0])
    comma = None
    for match in _DECIMAL_COMMA.finditer(masked):
        comma = (match.end(), match[0].replace(",", "."))
    if comma and number and comma[0] >= number[0]:
        number = comma
    last = max((found for found in (formula, number) if found), default=None)
    return last[1].strip() if last else None


def _last_formula(text: str) -> tuple[int, str] | None:
    """(end, formula); formulas joined by "and", "or" or a comma are one list."""
    last: tuple[int, str] | None = None
    for match in _MATH.finditer(text):
        inside = next(group for group in match.groups() if group is not None).strip()
        if last is not None and _BETWEEN_FORMULAS.fullmatch(text, last[0], match.start()):
            last = (match.end(), f"{last[1]}, {inside}")
        elif re.search(r"\d|[A-Za-z]{2}|\\", inside) or len(inside) > 1 or last is None:
            last = (match.end(), inside)
    return last
