r"""What of a response is read for its answer: what stands behind its thoughts and before its end of sequence.

A thought that was opened and never closed has no answer, whatever stands in it. Nothing behind an end of sequence is
read: the tokenizer may not know the token that another family of models ends with, so every family's spelling counts.
"""

from __future__ import annotations

import re

MAX_TAIL = 50_000  # characters of a response that are searched, from its end

_THOUGHT = r"(?:think(?:ing)?|thoughts?|reasoning|analysis|seed:think)"
_MARK_OF_THOUGHT = re.compile(
    rf"<(?:(?P<end>/)?{_THOUGHT}>|\|(?:begin|(?P<other_end>end))_of_thought\|>)", re.IGNORECASE
)
_OTHER_MARKS = {
    "◁think▷": "<think>",
    "◁/think▷": "</think>",
    "[THINK]": "<think>",
    "[/THINK]": "</think>",
}
# Special tokens that set something off inside a response, and end nothing.
_INSIDE = (
    r"(?:(?:begin|end)_of_(?:box|thought|solution)|channel|message|constrain|start|think|/think)"
)
_END = re.compile(  # <|im_end|>, <｜end▁of▁sentence｜>, <end_of_turn>, </s>, <eos>, <seed:eos>, <turn|>, <|turn>
    rf"<(?:[|｜](?!{_INSIDE}[|｜])[\w▁ ]{{3,40}}[|｜]>|/s>|(?:start|end)_of_[a-z_]{{4,24}}>"
    r"|/?(?:seed:)?(?:eos|eot|eod|eom|eoa|eop|endoftext|pad)(?:_token)?>|turn\|>|\|turn>|SPECIAL_\d{1,4}>)",
    re.IGNORECASE,
)
_END_IN_BRACKETS = re.compile(r"\[(?:EOS|EOT|PAD|/?INST|\|endofturn\||UNUSED_TOKEN_\d+)\]|\[e~\[")
# Before a response's first words, where a template was taken for a part of it.
_BEGINNING = re.compile(
    r"(?:\s*<(?:[|｜](?:im_start|(?:start|end)_header_id|header_(?:start|end)|begin[\w▁]*|bos|assistant|chatbot_token"
    r"|start_of_turn_token)[|｜]|s|bos|start_of_turn|\|turn)>(?:\s*(?:assistant|model)\b(?=\s|<))?)+",
    re.IGNORECASE,
)
_FINAL_CHANNEL = "<|channel|>final<|message|>"


def spoken_part(text: str) -> str:
    r"""What of the text is read; empty when its last thought never ended.

    >>> spoken_part(r"<think>\boxed{3}?</think>\boxed{4}<|im_end|>\boxed{5}"), spoken_part(r"<think>\boxed{3}")
    ('\\boxed{4}', '')
    """
    if "<|channel|>" in text:
        text, has_final = _final_channel(text)
        if not has_final:
            return ""
    return _tail(_behind_thoughts(_before_end(text)))


def _final_channel(text: str) -> tuple[str, bool]:
    """What is said in the channel for the user, and whether there is one."""
    _, found, final = text.partition(_FINAL_CHANNEL)
    return (final, True) if found else (text, "<|channel|>analysis" not in text)


def _before_end(text: str) -> str:
    start = 0
    ends = []
    if "<" in text:
        beginning = _BEGINNING.match(text)
        start = beginning.end() if beginning else 0
        ends.append(_END.search(text, start))
    if "[" in text:
        ends.append(_END_IN_BRACKETS.search(text, start))
    positions = [end.start() for end in ends if end]
    return text[start : min(positions)] if positions else text[start:]


def _behind_thoughts(text: str) -> str:
    """Behind the last thought; a response that ends with its thought has all it says in there."""
    if "◁" in text or "THINK]" in text:
        for mark, usual in _OTHER_MARKS.items():
            text = text.replace(mark, usual)
    if "<" not in text:
        return text
    marks = list(_MARK_OF_THOUGHT.finditer(text))
    if not marks:
        return text
    last = marks[-1]
    if not (last["end"] or last["other_end"]):
        return ""
    return text[last.end() :] if text[last.end() :].strip() else text


def _tail(text: str) -> str:
    """A box that is longer than the tail is still the answer, and refused by its size."""
    if len(text) <= MAX_TAIL:
        return text
    box = text.rfind("\\boxed")
    return text[min(len(text) - MAX_TAIL, box if box >= 0 else len(text)) :]
