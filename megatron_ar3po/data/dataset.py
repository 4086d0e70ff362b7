"""JSONL -> prompts.

A line is an object with `data.prompt_field` (a string or a list of chat messages) and
`data.answer_field` (a non-empty string); `source` names its set in metrics and every other field is
kept as metadata. Each line is read before the run starts, and the first one that will not do ends
it with file, line number and what to do. Answers that the verifier could never grade are listed,
and refused or left out (`data.unusable_answers`).

Promises: a prompt's identity is a hash of all that decides whether an old answer may serve it again
(`prompt_id_of`); equal prompts with one answer are loaded once, with two answers never; no token id
reaches the server that the model does not know; a chat template that writes the date writes the one
it is given.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
from jinja2 import TemplateError

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

VerdictOptions = Callable[[Mapping[str, object]], Mapping[str, str]]

_MAX_LISTED = 10  # unusable answers named in a message


def load_prompts(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    verifier_version: str,
    rendered_at: datetime,
    verdict_options: VerdictOptions = lambda metadata: {},
    vocab_size: int | None = None,
    check_answers: Callable[[list[str]], list[str | None]] | None = None,
) -> list[Prompt]:
    """All prompts of the file, in its order. `rendered_at` is what a chat template takes for now, `verdict_options`
    what of a prompt's metadata the verifier goes by; `vocab_size` (of the model) bounds the token ids; `check_answers`
    says for each ground truth why it cannot be graded, or None."""
    reader = _Reader(tokenizer, config, verifier_version, rendered_at, verdict_options, vocab_size)
    prompts: dict[tuple[int, ...], tuple[Prompt, str]] = {}
    num_repeated = 0
    for where, record in _read_records(Path(path)):
        prompt = reader.prompt(record, where)
        first, first_where = prompts.setdefault(prompt.token_ids, (prompt, where))
        if first.ground_truth != prompt.ground_truth:
            raise ValueError(
                f"{where}: the prompt is that of {first_where}, but its answer is "
                f"{prompt.ground_truth!r} and not {first.ground_truth!r}; keep the line that is "
                "right."
            )
        options = [dict(verdict_options(p.metadata)) for p in (prompt, first)]
        if options[0] != options[1]:
            raise ValueError(
                f"{where}: the prompt and its answer are those of {first_where}, but it is graded with "
                f"{options[0] or 'no tolerance'} and not with {options[1] or 'no tolerance'}; keep the line that is "
                "right."
            )
        num_repeated += first_where != where
    if not prompts:
        raise ValueError(f"{path}: no prompt in the file; write one JSON object a line.")
    if num_repeated:
        logger.warning("%s: %d repeated lines; every prompt is used once", path, num_repeated)
    found = list(prompts.values())
    if check_answers is None:
        return [prompt for prompt, _ in found]
    reasons = check_answers([prompt.ground_truth for prompt, _ in found])
    unusable = [
        f"{where}: {prompt.ground_truth[:80]!r}: {reason}"
        for (prompt, where), reason in zip(found, reasons, strict=True)
        if reason is not None
    ]
    if unusable:
        _refuse_or_tell(unusable, len(found), config.unusable_answers)
    return [prompt for (prompt, _), reason in zip(found, reasons, strict=True) if reason is None]


def _refuse_or_tell(unusable: list[str], num_prompts: int, policy: str) -> None:
    listed = "\n  ".join(unusable[:_MAX_LISTED])
    more = len(unusable) - _MAX_LISTED
    message = (
        f"{len(unusable)} of {num_prompts} answers can never be graded, every response to them would count as wrong:\n"
        f"  {listed}" + (f"\n  and {more} more" if more > 0 else "")
    )
    if policy == "refuse" or len(unusable) == num_prompts:
        raise ValueError(
            f"{message}\nMend or drop these lines (`ar3po grade --check FILE` lists them all), choose another "
            "rewards.verifier, or leave them out with data.unusable_answers=skip."
        )
    logger.warning("%s\nleft out, as data.unusable_answers=skip says", message)


def digest_prompts(
    path: str | Path, config: DataConfig, *, first: int = 0, is_ordered: bool = False
) -> tuple[int, str]:
    """How many different prompts the file holds (of the `first` so many; 0: of all), and a checksum of what they ask
    and what is right. Their order counts where it `is_ordered`; of their other fields only the tolerance does. Raises
    ValueError for a file that cannot be read."""
    fields = config.prompt_field, config.answer_field, "error"  # a prompt's own tolerance
    asked = dict.fromkeys(
        json.dumps([record.get(name) for name in fields], sort_keys=True)
        for _, record in _read_records(Path(path))
    )
    prompts = list(asked)[: first or None]
    content = "\n".join(prompts if is_ordered else sorted(prompts))
    return len(prompts), xxhash.xxh3_128_hexdigest(content.encode("utf-8"))


def prompt_id_of(
    token_ids: Sequence[int],
    ground_truth: str,
    verifier_version: str,
    chat_template: str,
    verdict_options: Mapping[str, str] | None = None,
) -> str:
    """128 bits in hex. A changed verifier or chat template gives new ids, so the reuse store never
    lends an answer that was graded or asked for differently. `verdict_options` of the prompt's own
    count where it has some: the others keep the ids that they had before these did."""
    parts = [list(token_ids), ground_truth, verifier_version, chat_template]
    content = json.dumps(
        [*parts, dict(verdict_options)] if verdict_options else parts, sort_keys=True
    )
    return hashlib.blake2b(content.encode("utf-8"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Reader:
    tokenizer: PreTrainedTokenizerBase
    config: DataConfig
    verifier_version: str
    rendered_at: datetime
    verdict_options: VerdictOptions
    vocab_size: int | None

    def prompt(self, record: Mapping[str, Any], where: str) -> Prompt:
        asked, ground_truth = (
            self._read_prompt_field(record, where),
            self._read_answer(record, where),
        )
        uses_template = not isinstance(asked, str)
        text = self._render(asked, where) if uses_template else asked
        token_ids = self._tokenize(text, uses_template, where)
        template = str(self.tokenizer.chat_template) if uses_template else ""
        fields = {self.config.prompt_field, self.config.answer_field, "source"}
        metadata = {name: value for name, value in record.items() if name not in fields}
        return Prompt(
            prompt_id=prompt_id_of(
                token_ids,
                ground_truth,
                self.verifier_version,
                template,
                self.verdict_options(metadata),
            ),
            token_ids=token_ids,
            ground_truth=ground_truth,
            text=text,
            source=str(record.get("source", "")),
            metadata=metadata,
        )

    def _read_prompt_field(
        self, record: Mapping[str, Any], where: str
    ) -> str | list[dict[str, Any]]:
        name = self.config.prompt_field
        if name not in record:
            raise ValueError(
                f"{where}: no field {name!r} (data.prompt_field), only {sorted(record)}; name the "
                "prompt's field."
            )
        asked = record[name]
        if isinstance(asked, str) and asked.strip():
            return (
                [{"role": "user", "content": asked}] if self.config.apply_chat_template else asked
            )
        if isinstance(asked, list) and asked and all(_is_message(message) for message in asked):
            return asked
        raise ValueError(
            f"{where}: {name!r} is {_show(asked)}; it must be a non-empty string, or a list of "
            "chat messages like "
            '{"role": "user", "content": "..."}.'
        )

    def _read_answer(self, record: Mapping[str, Any], where: str) -> str:
        name = self.config.answer_field
        if name not in record:
            raise ValueError(
                f"{where}: no answer: field {name!r} (data.answer_field) is missing, there is only "
                f"{sorted(record)}; add the ground truth or name its field."
            )
        answer = record[name]
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError(
                f"{where}: the answer {name!r} is {_show(answer)}; it must be a non-empty string, "
                'such as "42".'
            )
        return answer

    def _render(self, messages: list[dict[str, Any]], where: str) -> str:
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"{where}: the prompt is a chat, but the tokenizer of model.path has no chat "
                "template; set data.apply_chat_template=false and give prompts as strings, or add "
                "a chat template."
            )
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                # Before transformers' own, which takes the clock: a prompt would change overnight.
                strftime_now=self.rendered_at.strftime,
            )
        except TemplateError as error:  # templates refuse some orders of roles
            raise ValueError(
                f"{where}: the chat template refuses the messages: {error}; mend their roles."
            ) from error
        return str(text)

    def _tokenize(self, text: str, is_rendered: bool, where: str) -> tuple[int, ...]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise ValueError(
                f"{where}: the prompt is no valid Unicode text ({error.reason}); mend it."
            ) from error
        # A rendered template already holds its special tokens.
        token_ids = tuple(self.tokenizer.encode(text, add_special_tokens=not is_rendered))
        if not token_ids:
            raise ValueError(f"{where}: the prompt {_show(text)} has no token; give it some text.")
        if len(token_ids) > self.config.max_prompt_tokens:
            raise ValueError(
                f"{where}: the prompt has {len(token_ids)} tokens, more than "
                f"data.max_prompt_tokens={self.config.max_prompt_tokens}; shorten or drop it, or "
                "raise the limit."
            )
        if self.vocab_size is not None and max(token_ids) >= self.vocab_size:
            raise ValueError(
                f"{where}: token {max(token_ids)} is outside the model's vocabulary of "
                f"{self.vocab_size}; use the tokenizer the model was trained with, or drop the "
                "line."
            )
        return token_ids


def _read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object), blank lines left out."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(
            f"{path}: the prompts cannot be read ({error.strerror}); give a JSONL file."
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{where}: not JSON ({error}): {_show(line.decode('utf-8', 'replace'))}; write "
                "one object a line."
            ) from error
        if not isinstance(record, dict):
            raise ValueError(
                f"{where}: {_show(record)} is no JSON object; write one object a line."
            )
        yield where, record


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in ("role", "content")
    )


def _show(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
