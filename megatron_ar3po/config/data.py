"""Section `data`: the training prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_ar3po.config.at_resume import Fixed, Free, Warn
from megatron_ar3po.config.paths import PathText
from megatron_ar3po.config.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The training prompts: a JSONL file, one object a line."""

    path: Warn[PathText] = ""
    """JSONL file of training prompts. Other fields of a line than those named below travel with the prompt as its
    metadata."""

    prompt_field: Warn[str] = "prompt"
    """Field of a line that holds the prompt: a string, or a list of chat messages (`role`, `content`)."""

    answer_field: Warn[str] = "answer"
    """Field of a line that holds the ground truth, a non-empty string."""

    apply_chat_template: Fixed[bool] = False
    """A prompt that is a string becomes one user message of the tokenizer's chat template. Off by default: a base
    model has no template, and what you wrote is what it reads."""

    max_prompt_tokens: Free[int] = 1024
    """A longer prompt, in tokens, is refused when the data is loaded. Together with `rollout.max_response_tokens` it
    bounds the sequences for which servers and micro-batches are sized."""

    shuffle: Fixed[bool] = True
    """Each epoch has an order of its own, a function of `run.seed`. false: the order of the file, every time."""

    unusable_answers: Free[Literal["refuse", "skip"]] = "refuse"
    """What becomes of lines whose ground truth the verifier could never grade as correct. `refuse` ends the run
    before it starts and names the lines; `skip` leaves them out and says so."""

    def __post_init__(self) -> None:
        require(
            self.max_prompt_tokens > 0,
            f"data.max_prompt_tokens={self.max_prompt_tokens} must be at least 1.",
        )
