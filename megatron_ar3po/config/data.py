"""Section `data`: the training prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Fixed, Free, Warn
from megatron_ar3po.config.paths import PathText, expand_home
from megatron_ar3po.config.ranges import COUNT, FRACTION, check_values
from megatron_ar3po.config.rules import require, require_name_or_path

SELECTIONS = ("epoch", "weighted", "thompson")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The training prompts: a JSONL file, one object a line, or a Parquet file."""

    path: Warn[PathText] = ""
    """JSONL or Parquet file of training prompts. Other fields of a line than those named below travel with the prompt
    as its metadata."""

    mixture: Warn[dict[str, float]] = field(default_factory=dict[str, float])
    """Several files in the place of `data.path`, each with its weight, as in `{gsm8k.jsonl: 1, math.jsonl: 3}`: of the
    prompts that are drawn, a quarter is of the first. Each file has epochs of its own. A prompt that stands in two
    files belongs to the first."""

    cache_dir: Free[PathText] = ""
    """Where files of 64 MiB and more are kept as they were tokenized, so that the next start with the same contents
    takes seconds. It may be emptied at any time. Empty: `ar3po/prompts` in `XDG_CACHE_HOME`, or in `~/.cache`."""

    broken_rows: Warn[Literal["refuse", "skip"]] = "refuse"
    """What becomes of rows that are no prompt: no answer, a wrong type, invalid UTF-8. `refuse` ends the run before it
    starts and names them by file and line; `skip` leaves them out and says so."""

    prompt_field: Warn[str] = "prompt"
    """Field of a line that holds the prompt: a string, or a list of chat messages (`role`, `content`)."""

    answer_field: Warn[str] = "answer"
    """Field of a line that holds the ground truth, a non-empty string."""

    apply_chat_template: Fixed[bool] = False
    """A prompt that is a string becomes one user message of the tokenizer's chat template. Off by default: a base
    model has no template, and what you wrote is what it reads."""

    template: Fixed[str] = "raw"
    """What stands around a prompt that is a string, before a chat template sees it. `raw`: nothing. `boxed`: behind it
    the request to reason step by step and to put the answer in `\\boxed{}`. `dapo`: the words around the problems of
    DAPO-Math-17k. `qwen_boxed`: Qwen2.5-Math's whole chat, with the same request as its system message; not with
    `data.apply_chat_template=true`, which would render it again. Or the path of a text file of your own, in which
    `{prompt}` stands for the prompt."""

    template_date: Fixed[str] = ""
    """What a chat template that writes the date (Llama 3.x) takes for today, as in 2026-11-29. Empty: the day on which
    the run was first started; its resumes keep it."""

    rendered_prompts: Fixed[Literal["refuse", "keep"]] = "refuse"
    """What becomes of a string that a chat template has rendered before, where it would get a second template
    (`data.apply_chat_template=true`) or a second BOS token. `refuse` names its line; `keep` takes the string as it is,
    with one BOS token."""

    drop_last_assistant: Fixed[bool] = False
    """A chat that ends with the assistant's message shows the policy the answer. It is refused; true drops that
    message and asks what stands before it."""

    max_prompt_tokens: Free[Annotated[int, COUNT]] = 1024
    """The longest prompt, in tokens. Together with `rollout.max_response_tokens` it bounds the sequences for which
    servers and micro-batches are sized."""

    overlong_prompts: Warn[Literal["refuse", "skip"]] = "refuse"
    """What becomes of prompts of more than `data.max_prompt_tokens` tokens. `refuse` ends the run before it starts,
    with how many there are and the first lines; `skip` leaves them out and says so."""

    shuffle: Fixed[bool] = True
    """Each epoch has an order of its own, a function of `run.seed`. false: the order of the file, every time."""

    selection: Fixed[str] = "epoch"
    """Which prompts a step takes. `epoch`: in the order of the epoch, each once. `weighted`: with a chance that grows
    with how uncertain the outcome is, by the prompt's counts. `thompson`: those whose pass rate, drawn from what is
    known of it, is nearest to 1/2. Or the import path 'package.module:function' of your own weights
    ([data.md](data.md#which-prompts-a-step-takes))."""

    exploration_frac: Warn[Annotated[float, FRACTION]] = 0.25
    """With a `selection` other than `epoch`: the share of each draw that comes in the order of the epoch all the same,
    at least one prompt, so that none is left out for good."""

    unusable_answers: Free[Literal["refuse", "skip"]] = "refuse"
    """What becomes of lines whose ground truth the verifier could never grade as correct. `refuse` ends the run
    before it starts and names the lines; `skip` leaves them out and says so."""

    def __post_init__(self) -> None:
        check_values("data", self)
        require_name_or_path("data.selection", self.selection, SELECTIONS)
        require(
            self.selection == "epoch" or self.exploration_frac > 0,
            f"data.exploration_frac=0 with data.selection={self.selection} starves the prompts that it does not "
            "favour: they would never be drawn again, whatever the policy has learnt meanwhile. Give them a share of "
            "each step, as data.exploration_frac=0.25, or set data.selection=epoch.",
        )
        require(
            not self.template_date or _is_date(self.template_date),
            f"data.template_date={self.template_date} is no date; write it as in 2026-11-29, or leave it empty.",
        )

        require(
            not (self.path and self.mixture),
            f"data.mixture names the training files, so data.path={self.path} does not; leave one of the two empty.",
        )
        for name, weight in self.mixture.items():
            require(
                0 < weight < float("inf"),
                f"data.mixture: the weight of {name} is {weight}; it must be a number above 0.",
            )
        require(
            not (self.template == "qwen_boxed" and self.apply_chat_template),
            "data.template=qwen_boxed is a whole chat, which data.apply_chat_template=true would render a second time; "
            "set one of the two, or take data.template=boxed.",
        )

    @property
    def files(self) -> dict[str, float]:
        """The training files and their weights.

        >>> DataConfig(path="a.jsonl").files, DataConfig(mixture={"a.jsonl": 1, "b.jsonl": 3}).files
        ({'a.jsonl': 1.0}, {'a.jsonl': 1, 'b.jsonl': 3})
        """
        if self.mixture:
            return {expand_home(path): weight for path, weight in self.mixture.items()}
        return {self.path: 1.0} if self.path else {}

    def now_of_template(self, first_start: datetime) -> datetime:
        """What a chat template takes for now in a run that was first started then."""
        return datetime.fromisoformat(self.template_date) if self.template_date else first_start


def source_of(row: Mapping[str, object]) -> str:
    """The set that a row of a data file belongs to; empty where it names none."""
    source = row.get("source")
    return "" if source is None else str(source)


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
