"""What stands around a prompt that is a string: `data.template`."""

from __future__ import annotations

from pathlib import Path

from megatron_ar3po.config.paths import expand_home

PLACE = "{prompt}"
_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_TEMPLATES = {
    "raw": PLACE,
    "boxed": f"{PLACE}\n\n{_BOXED}",
    "dapo": (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        f"$Answer (without quotes) where $Answer is the answer to the problem.\n\n{PLACE}\n\n"
        'Remember to put your answer on its own line after "Answer:".'
    ),
    "qwen_boxed": (
        f"<|im_start|>system\n{_BOXED}<|im_end|>\n<|im_start|>user\n{PLACE}<|im_end|>\n<|im_start|>assistant\n"
    ),
}


def load_template(name: str) -> tuple[str, str]:
    """What stands before and behind the prompt. Raises ValueError for a name that is none and no file that could be
    one.

    >>> load_template("raw"), load_template("boxed")[1][:8]
    (('', ''), '\\n\\nPlease')
    """
    text = _TEMPLATES.get(name) or _read(name)
    before, _, behind = text.partition(PLACE)
    return before, behind


def is_file_of_template(name: str) -> bool:
    return name not in _TEMPLATES


def _read(name: str) -> str:
    path = Path(expand_home(name))
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ValueError(
            f"data.template={name} is none of {', '.join(_TEMPLATES)}, and no text file that can be read ({reason}); "
            "name one of them, or a file with {prompt} in it."
        ) from error
    if text.count(PLACE) != 1:
        raise ValueError(
            f"data.template={name}: {{prompt}} stands in it {text.count(PLACE)} times; it must stand there once, where "
            "the prompt goes."
        )
    return text
