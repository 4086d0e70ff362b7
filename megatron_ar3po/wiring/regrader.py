"""The data and the verifier of now, asked about stored responses: for `ar3po reuse regrade` and `import`."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from megatron_ar3po.config.load import load_config
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.tokenizer import load_tokenizer
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.rewards.verdict_settings import verdict_settings
from megatron_ar3po.rewards.verifier import make_verifier
from megatron_ar3po.run.facts import read_rendered_at
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_format
from megatron_ar3po.types import Prompt, Response, Verdict


class Regrader:
    """Made from a run's config; what it starts ends with `stack`."""

    def __init__(self, config_file: Path, stack: ExitStack) -> None:
        rendered_at = datetime.now()
        if config_file.name == CONFIG_FILE:
            check_format(config_file.parent)
            rendered_at = read_rendered_at(config_file.parent)
        config = load_config([config_file])
        self._verdicts = verdict_settings(config)
        tokenizer = load_tokenizer(config.model.path)
        self._verifier = make_verifier(
            config.rewards,
            cast("Any", tokenizer),
            max_response_tokens=config.rollout.max_response_tokens,
        )
        stack.callback(self._verifier.close)
        prompts = load_prompts(
            list(config.data.files),
            tokenizer,
            config.data,
            grading=PromptGrading(config.rewards),
            rendered_at=rendered_at,
            vocab_size=read_model_shape(config.model.path).vocab_size,
            checks_answers=False,
        )
        self._prompts = {prompt.token_ids: prompt for prompt in prompts}
        self._loop = asyncio.new_event_loop()
        stack.callback(self._loop.close)

    @property
    def verdicts(self) -> dict[str, str]:
        return self._verdicts

    def current_prompt(self, prompt: Prompt) -> Prompt | None:
        return self._prompts.get(prompt.token_ids)

    def verify(self, prompt: Prompt, response: Response) -> Verdict:
        return self._loop.run_until_complete(self._verifier.verify(prompt, response))
