"""What is kept of large data files between starts: their prompts as they were tokenized, and the checksum of what they
ask, which a run's facts hold. Both under a key of all that decides them, the contents of the files first of all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from megatron_ar3po import __version__
from megatron_ar3po.config.paths import expand_home
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.prompt_cache import PromptCache
from megatron_ar3po.data.prompt_templates import load_template
from megatron_ar3po.file_digests import digest_file
from megatron_ar3po.rewards.verifier import verifier_version
from megatron_ar3po.wiring.model_identity import identify_model

logger = logging.getLogger(__name__)

LARGE_BYTES = 64 << 20  # below, reading the files anew takes seconds
_PACKAGES = ("transformers", "tokenizers", "pyarrow")
_OF_THE_ORDER = (
    "path",
    "mixture",
    "cache_dir",
    "shuffle",
)  # of section data; they change no prompt


def find_cache(
    config: Config,
    files: Sequence[str],
    rendered_at: datetime,
    *,
    vocab_size: int,
    checks_answers: bool = True,
    large_bytes: int = LARGE_BYTES,
) -> PromptCache | None:
    """None for files that are not large."""
    if not _are_large(files, large_bytes):
        return None
    data = asdict(config.data)
    identity = identify_model(Path(config.model.path))
    dated = config.data.now_of_template(rendered_at)
    of_each_source = config.rewards.of_each_source().values()
    parts = [
        __version__,
        {package: version(package) for package in _PACKAGES},
        [digest_file(Path(path)).xxh3 for path in files],
        {name: value for name, value in data.items() if name not in _OF_THE_ORDER},
        load_template(config.data.template),
        {what: identity.get(what, "") for what in ("tokenizer", "chat template")},
        # A template that writes the date gives other prompts on other days.
        dated.isoformat() if _writes_the_date(Path(config.model.path)) else "",
        asdict(config.rewards),
        [verifier_version(own) for own in of_each_source],
        [vocab_size, checks_answers],
    ]
    return PromptCache(_folder(config), _digest(parts))


def remember(
    config: Config,
    path: str,
    what: Sequence[Any],
    find: Callable[[], tuple[int, str]],
    *,
    large_bytes: int = LARGE_BYTES,
) -> tuple[int, str]:
    """What `find` returns of the file at `path`; `what` of it is to be found decides together with its contents."""
    if not _are_large([path], large_bytes):
        return find()
    key = _digest([__version__, digest_file(Path(path)).xxh3, *what])
    file = _folder(config) / f"{key}.facts.json"
    try:
        count, digest = json.loads(file.read_text("utf-8"))
        return int(count), str(digest)
    except (OSError, ValueError, TypeError):  # there is none, or a damaged one: it is found anew
        found = find()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
        unfinished.write_text(json.dumps(found), "utf-8")
        unfinished.replace(file)
    except OSError as error:  # the next start finds it again
        logger.debug("%s cannot be written (%s)", file, error)
    return found


def _are_large(files: Sequence[str], large_bytes: int) -> bool:
    try:
        return sum(Path(path).stat().st_size for path in files) >= large_bytes
    except OSError:  # whoever reads them says so
        return False


def _folder(config: Config) -> Path:
    if config.data.cache_dir:
        return Path(config.data.cache_dir)
    caches = os.environ.get("XDG_CACHE_HOME") or expand_home("~/.cache")
    return Path(caches) / "ar3po" / "prompts"


def _writes_the_date(folder: Path) -> bool:
    texts = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    return any(b"strftime" in path.read_bytes() for path in texts if path.is_file())


def _digest(parts: Sequence[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True, default=str).encode())
