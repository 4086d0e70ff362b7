"""JSONL -> prompts.

A line is an object with `data.prompt_field` (a string or a list of chat messages) and
`data.answer_field` (a non-empty string); `source` names its set in metrics and chooses its verifier,
and every other field is kept as metadata. Each line is read before the run starts, and the first one
that will not do ends it with file, line number and what to do. What is wrong in many lines is said
once for all of them: overlong prompts (`data.overlong_prompts`), answers that the verifier could never
grade (`data.unusable_answers`), sources without a verifier, one prompt with two answers.

Promises: a prompt's identity is a hash of all that decides whether an old answer may serve it again
(`prompt_id_of`); equal prompts with equal answers are loaded once, with two answers never. What a
prompt renders to is promised in rendering.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from megatron_ar3po.config.data import DataConfig, source_of
from megatron_ar3po.data.prompt_rows import list_some, read_answer
from megatron_ar3po.data.rendering import PromptRenderer
from megatron_ar3po.data.row_files import read_rows
from megatron_ar3po.interfaces import GradingRules
from megatron_ar3po.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class _Row(NamedTuple):
    prompt: Prompt
    where: str
    grading: tuple[str, Mapping[str, str]]  # version of its verifier, and options of its own


@dataclass(slots=True)
class _Found:
    """What the lines of a file came to, in their order."""

    rows: dict[tuple[int, ...], _Row] = field(default_factory=dict)  # by token ids
    respelled: list[tuple[_Row, _Row]] = field(default_factory=list)  # one prompt, two spellings
    overlong: list[str] = field(default_factory=list)
    without_verifier: dict[str, list[str]] = field(default_factory=dict)  # by source: where
    num_rows: int = 0
    num_repeated: int = 0


def load_prompts(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    grading: GradingRules,
    rendered_at: datetime,
    vocab_size: int | None = None,
    checks_answers: bool = True,
) -> list[Prompt]:
    """All prompts of the file, in its order. `rendered_at` is what a chat template takes for now; `vocab_size` (of the
    model) bounds the token ids; without `checks_answers` it is not asked whether the ground truths can be graded, which
    takes worker processes. Raises ValueError for what cannot be trained on."""
    renderer = PromptRenderer(tokenizer, config, rendered_at, vocab_size)
    found = _Found()
    for where, record in read_rows(Path(path)):
        _add_row(found, record, where, renderer, config, grading)
    _check_sources(found)
    _refuse_or_tell_overlong(found, config)
    if not found.rows:
        raise ValueError(f"{path}: no prompt in the file; write one JSON object a line.")
    _check_respelled(found.respelled, grading)
    renderer.unknown.warn()
    if found.num_repeated:
        logger.warning("%s: %d repeated lines; every prompt is used once", path, found.num_repeated)
    rows = list(found.rows.values())
    if not checks_answers:
        return [row.prompt for row in rows]
    return _leave_out_unusable(rows, grading, config)


def _add_row(
    found: _Found,
    record: Mapping[str, Any],
    where: str,
    renderer: PromptRenderer,
    config: DataConfig,
    grading: GradingRules,
) -> None:
    found.num_rows += 1
    source = source_of(record)
    version = grading.version_of(source)
    if version is None:
        found.without_verifier.setdefault(source, []).append(where)
        return
    answer = read_answer(record, config, where)
    rendered = renderer.render(record, where)
    if len(rendered.token_ids) > config.max_prompt_tokens:
        found.overlong.append(f"{where}: {len(rendered.token_ids)} tokens")
        return
    fields = {config.prompt_field, config.answer_field, "source"}
    metadata = {name: value for name, value in record.items() if name not in fields}
    options = dict(grading.options_of(source, metadata))
    prompt = Prompt(
        prompt_id=prompt_id_of(rendered.token_ids, answer, version, rendered.template, options),
        token_ids=rendered.token_ids,
        ground_truth=answer,
        text=rendered.text,
        source=source,
        metadata=metadata,
    )
    row = _Row(prompt, where, (version, options))
    first = found.rows.setdefault(prompt.token_ids, row)
    if first is row:
        return
    _check_same_grading(first, row)
    if first.prompt.ground_truth != answer:
        found.respelled.append((first, row))
    found.num_repeated += 1


def _check_same_grading(first: _Row, row: _Row) -> None:
    (first_version, first_options), (version, options) = first.grading, row.grading
    if version != first_version:
        raise ValueError(
            f"{row.where}: the prompt is that of {first.where}, but its source {row.prompt.source!r} has another "
            f"verifier ({version}) than {first.prompt.source!r} ({first_version}); keep the line that is right."
        )
    if options != first_options:
        raise ValueError(
            f"{row.where}: the prompt and its answer are those of {first.where}, but it is graded with "
            f"{options or 'no tolerance'} and not with {first_options or 'no tolerance'}; keep the line that is "
            "right."
        )


def _check_sources(found: _Found) -> None:
    if found.without_verifier:
        sources = [
            f"{source!r}: {len(lines)} lines, the first is {lines[0]}"
            for source, lines in found.without_verifier.items()
        ]
        raise ValueError(
            "rewards.by_source names no verifier for these sources ('' is a line without a source):\n"
            f"{list_some(sources)}\nName one for each, or drop the lines."
        )


def _refuse_or_tell_overlong(found: _Found, config: DataConfig) -> None:
    if not found.overlong:
        return
    message = (
        f"{len(found.overlong)} of {found.num_rows} prompts have more tokens than "
        f"data.max_prompt_tokens={config.max_prompt_tokens}:\n{list_some(found.overlong)}"
    )
    if config.overlong_prompts == "refuse" or not found.rows:
        raise ValueError(
            f"{message}\nShorten or drop them, raise the limit, or leave them out with data.overlong_prompts=skip."
        )
    logger.warning("%s\nleft out, as data.overlong_prompts=skip says", message)


def _check_respelled(pairs: Sequence[tuple[_Row, _Row]], grading: GradingRules) -> None:
    """Lines that ask the same have the same answer by the rules of their verifier."""
    if not pairs:
        return
    reasons = grading.why_different([(first.prompt, row.prompt) for first, row in pairs])
    different = [
        f"{row.where}: the prompt is that of {first.where}, but its answer is "
        f"{row.prompt.ground_truth[:80]!r} and not {first.prompt.ground_truth[:80]!r} ({reason})"
        for (first, row), reason in zip(pairs, reasons, strict=True)
        if reason is not None
    ]
    if different:
        raise ValueError(
            f"{len(different)} lines ask what another line asks, and the verifier calls their answers different:\n"
            f"{list_some(different)}\nKeep the lines that are right."
        )


def _leave_out_unusable(
    rows: Sequence[_Row], grading: GradingRules, config: DataConfig
) -> list[Prompt]:
    reasons = grading.why_unusable([row.prompt for row in rows])
    unusable = [
        f"{row.where}: {row.prompt.ground_truth[:80]!r}: {reason}"
        for row, reason in zip(rows, reasons, strict=True)
        if reason is not None
    ]
    if unusable:
        _refuse_or_tell_unusable(unusable, len(rows), config.unusable_answers)
    return [row.prompt for row, reason in zip(rows, reasons, strict=True) if reason is None]


def _refuse_or_tell_unusable(unusable: list[str], num_prompts: int, policy: str) -> None:
    message = (
        f"{len(unusable)} of {num_prompts} answers can never be graded, every response to them would count as wrong:\n"
        f"{list_some(unusable)}"
    )
    if policy == "refuse" or len(unusable) == num_prompts:
        raise ValueError(
            f"{message}\nMend or drop these lines (`ar3po grade --check FILE` lists them all), choose another "
            "rewards.verifier, or leave them out with data.unusable_answers=skip."
        )
    logger.warning("%s\nleft out, as data.unusable_answers=skip says", message)


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
