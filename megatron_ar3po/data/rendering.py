"""A row -> the text and the tokens that the model reads.

Promises: a text is rendered by at most one template and begins with at most one BOS token; no prompt ends with the
answer of an assistant; no token id reaches the server that the model does not know; a chat template that writes the
date writes the one it is given; characters that the tokenizer lacks are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.data.chat_frame import ChatFrame, find_frame
from megatron_ar3po.data.prompt_rows import read_asked
from megatron_ar3po.data.prompt_templates import load_template
from megatron_ar3po.data.row_files import show
from megatron_ar3po.data.unknown_characters import UnknownCharacters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASSISTANTS = {"assistant", "model", "gpt"}  # as templates and data sets call it


class Rendered(NamedTuple):
    text: str
    token_ids: tuple[int, ...]
    template: str  # the chat template that rendered it; empty for a text as it was written


class PromptRenderer:
    """`rendered_at` is what a chat template takes for now, unless `data.template_date` says it; `vocab_size` (of the
    model) bounds the token ids. Raises ValueError, with `where` the row stands, for one that cannot be a prompt."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: DataConfig,
        rendered_at: datetime,
        vocab_size: int | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._now = config.now_of_template(rendered_at)
        self._vocab_size = vocab_size
        self._before, self._behind = load_template(config.template)
        self.unknown = UnknownCharacters(tokenizer)

    def render(self, record: Mapping[str, Any], where: str) -> Rendered:
        asked = read_asked(record, self._config, where)
        if isinstance(asked, str):
            asked = f"{self._before}{asked}{self._behind}"
            if not self._config.apply_chat_template or self._is_kept(asked, where):
                return Rendered(asked, self._tokenize(asked, where, is_rendered=False), "")
            asked = [{"role": "user", "content": asked}]
        else:
            asked = self._check_messages(asked, where)
        text = self._apply_template(asked, where)
        token_ids = self._tokenize(text, where, is_rendered=True)
        return Rendered(text, token_ids, str(self._tokenizer.chat_template))

    def _is_kept(self, text: str, where: str) -> bool:
        """Whether a template has rendered this string before, and it is to stay as it is."""
        marker = self._frame.find_in(text) if self._frame else None
        if marker is None:
            return False
        if self._config.rendered_prompts == "refuse":
            raise ValueError(
                f"{where}: the prompt {show(text)} is rendered already: it holds {marker!r} of the chat template, and "
                "data.apply_chat_template=true would render it a second time. Give the bare question; or keep such "
                "prompts as they are, with one BOS token, by data.rendered_prompts=keep."
            )
        return True

    def _check_messages(self, messages: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
        """The messages that are asked."""
        kept = list(messages)
        while kept and kept[-1]["role"].lower() in _ASSISTANTS:
            if not self._config.drop_last_assistant:
                raise ValueError(
                    f"{where}: the chat ends with the {kept[-1]['role']}'s message {show(kept[-1]['content'])}, which "
                    "the policy would read before it answers. End it with the user's message, or have it dropped by "
                    "data.drop_last_assistant=true."
                )
            kept.pop()
        if not kept:
            raise ValueError(
                f"{where}: nothing is left of the chat without the assistant's messages; add the user's message, or "
                "drop the line."
            )
        for message in kept:
            marker = self._frame.find_in(message["content"]) if self._frame else None
            if marker is not None:
                raise ValueError(
                    f"{where}: the {message['role']}'s message {show(message['content'])} is rendered already: it "
                    f"holds {marker!r} of the chat template, which would render it a second time. Give the bare "
                    "message; or the whole prompt as one string, with data.rendered_prompts=keep."
                )
        return kept

    @cached_property
    def _frame(self) -> ChatFrame | None:
        if self._tokenizer.chat_template is None:
            return None
        try:
            return find_frame(self._tokenizer, self._render_chat)
        except (
            TemplateError
        ):  # it wants other roles than one user's message, so there is no probing it
            return None

    def _apply_template(self, messages: list[dict[str, Any]], where: str) -> str:
        if self._tokenizer.chat_template is None:
            raise ValueError(
                f"{where}: the prompt is a chat, but the tokenizer of model.path has no chat "
                "template; set data.apply_chat_template=false and give prompts as strings, or add "
                "a chat template."
            )
        try:
            return self._render_chat(messages)
        except TemplateError as error:  # templates refuse some orders of roles
            raise ValueError(
                f"{where}: the chat template refuses the messages: {error}; mend their roles."
            ) from error

    def _render_chat(self, messages: list[dict[str, Any]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                # Before transformers' own, which takes the clock: a prompt would change overnight.
                strftime_now=self._now.strftime,
            )
        )

    def _tokenize(self, text: str, where: str, *, is_rendered: bool) -> tuple[int, ...]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise ValueError(
                f"{where}: the prompt is no valid Unicode text ({error.reason}); mend it."
            ) from error
        # A rendered template already holds its special tokens.
        token_ids = tuple(self._tokenizer.encode(text, add_special_tokens=not is_rendered))
        if not is_rendered and self._begins_twice(text, token_ids):
            token_ids = self._with_one_bos(text, where)
        if not token_ids:
            raise ValueError(f"{where}: the prompt {show(text)} has no token; give it some text.")
        if self._vocab_size is not None and max(token_ids) >= self._vocab_size:
            raise ValueError(
                f"{where}: token {max(token_ids)} is outside the model's vocabulary of "
                f"{self._vocab_size}; use the tokenizer the model was trained with, or drop the "
                "line."
            )
        self.unknown.look_at(text, token_ids, where)
        return token_ids

    def _begins_twice(self, text: str, token_ids: tuple[int, ...]) -> bool:
        """The text begins with a BOS token, and the tokenizer has put one before it."""
        bos, bos_id = self._tokenizer.bos_token, self._tokenizer.bos_token_id
        if not bos or not text.lstrip().startswith(str(bos)):
            return False
        return token_ids[:1] == (bos_id,) and token_ids.count(bos_id) > text.count(str(bos))

    def _with_one_bos(self, text: str, where: str) -> tuple[int, ...]:
        if self._config.rendered_prompts == "refuse":
            raise ValueError(
                f"{where}: the prompt {show(text)} begins with the BOS token {self._tokenizer.bos_token}, and the "
                "tokenizer adds another one: it is rendered already. Drop it from the file; or keep such prompts as "
                "they are, with one BOS token, by data.rendered_prompts=keep."
            )
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))
