"""What publishers wrap around a problem or an answer, taken off: plain functions of one value.

A value that is not wrapped as it should be raises ValueError, and the row is listed as broken; a row that is meant to
be left out raises LeftOutError with the reason under which it is counted.
"""

from __future__ import annotations

import re
from typing import Any, cast

from megatron_ar3po.data.row_files import show
from megatron_ar3po.rewards.math.extraction import extract_answer

DAPO_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


class LeftOutError(Exception):
    """The row is not wanted; the message says why, in words that many rows share."""


def strip_dapo_frame(text: Any) -> str:
    """The problem that stands between DAPO's prefix and suffix, which are taken off as the strings they are: stripping
    their *characters* would eat the problem's own ends. One in Chinese is left out.

    >>> strip_dapo_frame(DAPO_PREFIX + "Solve for x." + DAPO_SUFFIX)
    'Solve for x.'
    """
    if not isinstance(text, str):
        raise ValueError(f"the prompt is {show(text)} and no text")
    if _HAN.search(text):
        raise LeftOutError("not in English")
    if not text.startswith(DAPO_PREFIX) or not text.endswith(DAPO_SUFFIX):
        raise ValueError(f"the prompt {show(text)} does not stand between DAPO's prefix and suffix")
    return text.removeprefix(DAPO_PREFIX).removesuffix(DAPO_SUFFIX)


def read_gsm8k_answer(text: Any) -> Any:
    """The number behind "####", without the commas of its thousands; a number alone is one already.

    >>> read_gsm8k_answer("48/2 = 24\\n#### 1,024"), read_gsm8k_answer("72")
    ('1024', '72')
    """
    if not isinstance(text, str) or "####" not in text:
        return text
    return text.rpartition("####")[2].strip().replace(",", "")


def read_boxed_solution(text: Any) -> Any:
    """What the last box of a worked solution holds; a text without one is the answer.

    >>> read_boxed_solution(r"so $x = \\boxed{\\frac{1}{2}}$."), read_boxed_solution("12")
    ('\\\\frac{1}{2}', '12')
    """
    if not isinstance(text, str) or "boxed" not in text:
        return text
    found = extract_answer(text, answer_format="boxed", strict=True, fallback=False)
    if found is None:
        raise ValueError(f"the solution {show(text)} has no whole box")
    return found.text


def write_answer(value: Any) -> str:
    """A ground truth as text: whole numbers without a point, a list of one as its member, of several with commas.

    >>> [write_answer(value) for value in (27.0, 27, "27.0", "1,024 ", 0.5, ["$3$"], ["2", "3"])]
    ['27', '27', '27.0', '1,024', '0.5', '$3$', '2,3']
    """
    if isinstance(value, list):
        members = cast(list[Any], value)
        text = ",".join(write_answer(member) for member in members)
    elif isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"the answer is {show(value)} and neither text nor a number")
    elif isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        text = str(int(value))
    else:
        text = str(value).strip()
    if not text or text in ("nan", "inf", "-inf"):
        raise ValueError(f"the answer is {show(value)}, which is none")
    return text
