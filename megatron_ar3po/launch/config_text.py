"""The config that `ar3po init` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

_SPARE_TOKENS = 16
_KEPT_BY_SERVER = 2  # of a model's context


@dataclass(frozen=True, kw_only=True)
class FirstChoices:
    """What depends on the prompts, the model and this machine."""

    name: str
    model: str
    max_positions: int
    dtype: str
    on_gpu: bool
    data: str
    held_out: str  # "": none
    prompt_field: str
    answer_field: str
    uses_template: bool
    verifier: str
    prompts_per_step: int
    learning_rate: str
    max_prompt_tokens: int = 0
    max_response_tokens: int = 0

    def with_longest_prompt(self, longest: int, asked_response: int) -> FirstChoices:
        """Raises ValueError where the model has no room for an answer."""
        context = self.max_positions - _KEPT_BY_SERVER
        prompt = -(-longest // _SPARE_TOKENS) * _SPARE_TOKENS
        room = context - longest
        if room < max(1, asked_response):
            raise ValueError(
                f"the longest prompt has {longest} tokens, and {self.model} reads {self.max_positions} in all: that "
                f"leaves {max(0, room)} for an answer. Shorten the prompts, or lower --max-response-tokens."
            )
        prompt = min(prompt, context - max(1, asked_response))
        response = asked_response or min(1024, context - prompt)
        return replace(self, max_prompt_tokens=prompt, max_response_tokens=response)

    def as_overrides(self) -> list[str]:
        """What decides how prompts are read and checked."""
        return [
            f"model.path={self.model}",
            f"data.prompt_field={self.prompt_field}",
            f"data.answer_field={self.answer_field}",
            f"data.apply_chat_template={str(self.uses_template).lower()}",
            f"rewards.verifier={self.verifier}",
        ]


def config_text(c: FirstChoices) -> str:
    """YAML; texts are quoted as JSON, which YAML reads."""
    parts = [
        _RUN.format(name=_quote(c.name), model=_quote(c.model), dtype=c.dtype),
        _data_text(c),
        _ROLLOUT.format(prompts=c.prompts_per_step, response=c.max_response_tokens),
        _ACTOR.format(rate=c.learning_rate),
        _ON_GPU if c.on_gpu else "",
        _EVALUATION.format(path=_quote(c.held_out)) if c.held_out else "",
        _CHECKPOINT,
    ]
    return "".join(parts)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _data_text(c: FirstChoices) -> str:
    template = "the prompt becomes a user's message of the model's chat template"
    if not c.uses_template:
        template = "the model has no chat template: it reads a prompt as it stands"
    return _DATA.format(
        path=_quote(c.data),
        prompt=_quote(c.prompt_field),
        answer=_quote(c.answer_field),
        uses=str(c.uses_template).lower(),
        template=template,
        tokens=c.max_prompt_tokens,
        verifier=_quote(c.verifier),
    )


_RUN = """\
# Written by `ar3po init`. Every option there is: `ar3po options`, docs/options.md. What is not named here has its
# default. `ar3po train THIS --dry-run` shows all of them and checks the prompts.
run:
  name: {name}  # the run writes into runs/NAME
  num_steps: 200  # a step samples one batch of prompts and trains on it once; more can be added by a resume

model:
  path: {model}  # a Hugging Face folder: weights, config.json, tokenizer
  dtype: {dtype}  # of weights and computation: bfloat16 on GPUs, float32 on CPUs
"""

_DATA = """
data:
  path: {path}  # JSONL, one object a line
  prompt_field: {prompt}  # what is asked: a string, or a list of chat messages
  answer_field: {answer}  # what is right: a string
  apply_chat_template: {uses}  # {template}
  max_prompt_tokens: {tokens}  # no prompt is longer; with rollout.max_response_tokens it sizes the servers

rewards:
  verifier: {verifier}  # who decides what is correct: math (boxed answers), last_number, or package.module:function
"""

_ROLLOUT = """
algorithm:
  name: ar3po  # two stages of four responses, reuse of earlier correct ones; grpo and dapo to compare with

rollout:
  prompts_per_step: {prompts}  # each gets four responses, and four more while it is unsolved
  max_response_tokens: {response}  # a longer answer is cut off and counts as wrong
"""

_ACTOR = """
actor:
  learning_rate: {rate}  # by the model's size; lower it where actor/grad_norm or actor/clip_frac jump
  lr_warmup_steps: 10  # it rises to that in so many steps
"""

_ON_GPU = """\
  tensor_parallel_size: 1  # GPUs that share one copy of the model; `ar3po plan THIS` says whether it fits
  recompute: full  # a third more computation for much less memory
"""

_EVALUATION = """
evaluation:
  path: {path}  # held-out prompts: eval/pass_at_1 says whether the run learns
  every_steps: 20  # also before the first step and after the last
  samples_per_prompt: 4  # of each; more make the curve smoother
"""

_CHECKPOINT = """
checkpoint:
  every_steps: 20  # what a kill can cost; run.resume=true goes on from the newest
  keep_last: 2  # older ones are deleted
  export_hf: true  # at the end the policy is a Hugging Face folder, runs/NAME/hf
"""
