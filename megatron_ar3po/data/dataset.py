"""Data files -> prompts.

A row is an object with `data.prompt_field` (a string or a list of chat messages) and
`data.answer_field` (a non-empty string); `source` names its set in metrics and chooses its verifier,
and every other field is kept as metadata. Each row is read before the run starts, and those that
will not do end it with file, line number and what to do (`data.broken_rows`). What is wrong in many
rows is said once for all of them: overlong prompts (`data.overlong_prompts`), answers that the
verifier could never grade (`data.unusable_answers`), sources without a verifier, one prompt with two
answers.

Promises: a prompt's identity is a hash of all that decides whether an old answer may serve it again
(`prompt_id_of`); equal prompts with equal answers are loaded once, with two answers never. What a
prompt renders to is promised in rendering.py. Memory is that of the table (prompt_table.py) and, while
it is made, some 160 bytes a row.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megatron_ar3po.config.data import DataConfig, source_of
from megatron_ar3po.data.prompt_cache import Built, PromptCache
from megatron_ar3po.data.prompt_rows import list_some, read_answer, read_asked, require_unicode
from megatron_ar3po.data.prompt_table import Origin, PromptTable, TableWriter, make_table
from megatron_ar3po.data.rendering import PromptRenderer
from megatron_ar3po.data.repeated_prompts import RepeatedPrompts
from megatron_ar3po.data.row_files import read_rows
from megatron_ar3po.interfaces import GradingRules
from megatron_ar3po.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MOST_BROKEN = 1000  # so many, and the rest of the file is not worth reading
_LEAST_HUGE, _CHARACTERS_A_TOKEN = 1_000_000, 128  # beyond both a prompt is not tokenized
_CHECKED_AT_ONCE = 65536  # ground truths


def load_prompts(
    paths: str | Path | Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    grading: GradingRules,
    rendered_at: datetime,
    vocab_size: int | None = None,
    checks_answers: bool = True,
    cache: PromptCache | None = None,
) -> PromptTable:
    """All prompts of the files, in their order. `rendered_at` is what a chat template takes for now; `vocab_size` (of
    the model) bounds the token ids; without `checks_answers` it is not asked whether the ground truths can be graded,
    which takes worker processes. What a `cache` holds is not made again. Raises ValueError for what cannot be trained
    on."""
    built = build_prompts(
        paths,
        tokenizer,
        config,
        grading=grading,
        rendered_at=rendered_at,
        vocab_size=vocab_size,
        checks_answers=checks_answers,
        cache=cache,
    )
    for line in built.said:
        logger.warning("%s", line)
    return built.table


def build_prompts(
    paths: str | Path | Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    config: DataConfig,
    *,
    grading: GradingRules,
    rendered_at: datetime,
    vocab_size: int | None = None,
    checks_answers: bool = True,
    cache: PromptCache | None = None,
) -> Built:
    """`load_prompts`, with what it warns of."""
    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]

    def build(sink: Path | None) -> Built:
        renderer = PromptRenderer(tokenizer, config, rendered_at, vocab_size)
        reading = _Reading(files, config, grading, renderer)
        table = make_table(reading.read_into, sink)
        reading.check(table)
        if checks_answers:
            keep = reading.find_usable(table)
            if not keep.all():
                whole, second = table, sink and sink.with_name(f"{sink.name}.2")
                table = make_table(lambda writer: whole.write_rows(writer, keep), second)
        return Built(table, reading.said)

    return build(None) if cache is None else cache.load(build)


class _Reading:
    """Rows into a table, and what was amiss with them."""

    def __init__(
        self,
        files: Sequence[Path],
        config: DataConfig,
        grading: GradingRules,
        renderer: PromptRenderer,
    ) -> None:
        self._files, self._config = files, config
        self._grading, self._renderer = grading, renderer
        self._repeated = RepeatedPrompts()
        self._overlong: list[str] = []
        self._broken: list[str] = []
        self._without_verifier: dict[str, list[str]] = {}  # by source: where
        self._num_rows = 0
        self.said: list[str] = []  # what a run is warned of

    def read_into(self, writer: TableWriter) -> None:
        for number, path in enumerate(self._files):
            for where, record in read_rows(path, self._note_broken):
                self._num_rows += 1
                origin = Origin(number, int(where.rpartition(":")[2]))
                try:
                    self._add_row(writer, record, where, origin)
                except ValueError as error:
                    self._note_broken(str(error))

    def check(self, table: PromptTable) -> None:
        """Raises ValueError for what no run could train on; what it can goes to `said`."""
        self._refuse_or_tell_broken(len(table))
        self._check_sources()
        self._refuse_or_tell_overlong(len(table))
        if not len(table):
            named = ", ".join(map(str, self._files))
            raise ValueError(f"{named}: no prompt in the file; write one JSON object a line.")
        self._repeated.check(self._grading, table, self._where)
        for path, count in zip(self._files, table.num_rows_by_file(len(self._files)), strict=True):
            if not count:  # its share would go to the other files unsaid
                raise ValueError(
                    f"{path}: no prompt of this file is left for data.mixture: it is empty, its rows were left out, or "
                    "all of them stand in a file before it; mend it, or drop it from the mixture."
                )
        if unknown := self._renderer.unknown.describe():
            self.said.append(unknown)
        if count := self._repeated.count:
            named = ", ".join(map(str, self._files))
            self.said.append(f"{named}: {count} repeated lines; every prompt is used once")

    def find_usable(self, table: PromptTable) -> np.ndarray[Any, Any]:
        """A boolean for each row: whether a response could ever be graded against its ground truth."""
        keep, unusable = np.ones(len(table), np.bool_), list[str]()
        for start in range(0, len(table), _CHECKED_AT_ONCE):
            prompts = table[start : start + _CHECKED_AT_ONCE]
            reasons = self._grading.why_unusable(prompts)
            for index, (prompt, reason) in enumerate(zip(prompts, reasons, strict=True), start):
                if reason is not None:
                    keep[index] = False
                    where = self._where(table.origin_of(index))
                    unusable.append(f"{where}: {prompt.ground_truth[:80]!r}: {reason}")
        if unusable:
            self._refuse_or_tell_unusable(unusable, len(table))
        return keep

    def _add_row(
        self, writer: TableWriter, record: Mapping[str, Any], where: str, origin: Origin
    ) -> None:
        source = source_of(record)
        version = self._grading.version_of(source)
        if version is None:
            self._without_verifier.setdefault(source, []).append(where)
            return
        answer = read_answer(record, self._config, where)
        require_unicode(source, "source", where)
        if self._is_huge(record, where):
            return
        rendered = self._renderer.render(record, where)
        if len(rendered.token_ids) > self._config.max_prompt_tokens:
            self._overlong.append(f"{where}: {len(rendered.token_ids)} tokens")
            return
        fields = {self._config.prompt_field, self._config.answer_field, "source"}
        metadata = {name: value for name, value in record.items() if name not in fields}
        options = dict(self._grading.options_of(source, metadata))
        prompt = Prompt(
            prompt_id=prompt_id_of(rendered.token_ids, answer, version, rendered.template, options),
            token_ids=rendered.token_ids,
            ground_truth=answer,
            text=rendered.text,
            source=source,
            metadata=metadata,
        )
        if self._repeated.is_first(prompt, origin, version, options):
            writer.add(prompt, origin)

    def _is_huge(self, record: Mapping[str, Any], where: str) -> bool:
        asked = read_asked(record, self._config, where)
        length = len(asked) if isinstance(asked, str) else sum(len(m["content"]) for m in asked)
        if length <= max(_LEAST_HUGE, _CHARACTERS_A_TOKEN * self._config.max_prompt_tokens):
            return False
        self._overlong.append(f"{where}: {length} characters")
        return True

    def _note_broken(self, problem: str) -> None:
        self._broken.append(problem)
        if len(self._broken) >= _MOST_BROKEN and self._config.broken_rows == "refuse":
            raise ValueError(self._describe_broken(f"{_MOST_BROKEN} and perhaps more"))

    def _refuse_or_tell_broken(self, num_left: int) -> None:
        if not self._broken:
            return
        count = str(len(self._broken))
        if self._config.broken_rows == "refuse" and len(self._broken) == 1:
            raise ValueError(self._broken[0])
        if self._config.broken_rows == "refuse" or not num_left:
            raise ValueError(self._describe_broken(count))
        shown = list_some(self._broken, most=5)
        self.said.append(
            f"{count} rows are broken:\n{shown}\nleft out, as data.broken_rows=skip says"
        )

    def _describe_broken(self, count: str) -> str:
        return (
            f"{count} rows are broken:\n{list_some(self._broken, most=5)}\nMend or drop them, or leave them out with "
            "data.broken_rows=skip."
        )

    def _check_sources(self) -> None:
        if self._without_verifier:
            sources = [
                f"{source!r}: {len(lines)} lines, the first is {lines[0]}"
                for source, lines in self._without_verifier.items()
            ]
            raise ValueError(
                "rewards.by_source names no verifier for these sources ('' is a line without a source):\n"
                f"{list_some(sources)}\nName one for each, or drop the lines."
            )

    def _refuse_or_tell_overlong(self, num_left: int) -> None:
        if not self._overlong:
            return
        message = (
            f"{len(self._overlong)} of {self._num_rows} prompts have more tokens than "
            f"data.max_prompt_tokens={self._config.max_prompt_tokens}:\n{list_some(self._overlong)}"
        )
        if self._config.overlong_prompts == "refuse" or not num_left:
            raise ValueError(
                f"{message}\nShorten or drop them, raise the limit, or leave them out with data.overlong_prompts=skip."
            )
        self.said.append(f"{message}\nleft out, as data.overlong_prompts=skip says")

    def _refuse_or_tell_unusable(self, unusable: list[str], num_prompts: int) -> None:
        message = (
            f"{len(unusable)} of {num_prompts} answers can never be graded, every response to them would count as "
            f"wrong:\n{list_some(unusable)}"
        )
        if self._config.unusable_answers == "refuse" or len(unusable) == num_prompts:
            raise ValueError(
                f"{message}\nMend or drop these lines (`ar3po grade --check FILE` lists them all), choose another "
                "rewards.verifier, or leave them out with data.unusable_answers=skip."
            )
        self.said.append(f"{message}\nleft out, as data.unusable_answers=skip says")

    def _where(self, origin: Origin) -> str:
        return f"{self._files[origin.file]}:{origin.line}"


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
