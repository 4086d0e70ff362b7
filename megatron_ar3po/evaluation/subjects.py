"""What is evaluated: a run, a checkpoint of one, a Hugging Face folder, or a server that runs already."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import xxhash

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.facts import read_rendered_at
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_format
from megatron_ar3po.run.manifest import find_damage, read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A Hugging Face folder, a checkpoint that must become one first, or a server."""

    config: Config  # of the run it comes from, or the given one
    hf_folder: Path  # of a checkpoint or a server: whose config.json and tokenizer it has
    checkpoint: Path | None = None
    url: str = ""
    rendered_at: datetime = field(default_factory=datetime.now)  # a chat template takes it for now

    @property
    def name(self) -> str:
        return self.url or str(self.checkpoint or self.hf_folder)


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def find_subject(
    named: str, *, checkpoint: str = "", files: Sequence[str] = (), words: Sequence[str] = ()
) -> Subject:
    """Raises ValueError for what is none."""
    if is_url(named):
        config = load_config(files, words)
        if not config.model.path:
            raise ValueError(
                f"{named} is a server, and the prompts need its tokenizer: name the Hugging Face folder of its model "
                "by model.path=FOLDER."
            )
        return Subject(config=config, hf_folder=Path(config.model.path), url=named.rstrip("/"))
    folder = Path(named)
    if (folder / "config.json").is_file():
        return Subject(config=load_config(files, words), hf_folder=folder)
    settings = folder / CONFIG_FILE
    if not settings.is_file():
        raise ValueError(
            f"{folder} is neither a run (no {CONFIG_FILE}) nor a Hugging Face folder (no config.json); name one."
        )
    check_format(folder)
    config = load_config([settings, *files], words)
    rendered_at = read_rendered_at(folder)
    if (folder / "hf" / "config.json").is_file() and not checkpoint:
        return Subject(config=config, hf_folder=folder / "hf", rendered_at=rendered_at)
    return Subject(
        config=config,
        hf_folder=Path(config.model.path),
        checkpoint=_find_checkpoint(folder, checkpoint),
        rendered_at=rendered_at,
    )


def _find_checkpoint(run: Path, name: str) -> Path:
    """The newest one, where it is not named."""
    checkpoints = CheckpointFolder(run / "checkpoints", keep_last=1)
    checkpoint = checkpoints.path / name if name else checkpoints.newest()
    if checkpoint is None or not (checkpoint / "model").is_dir():
        there = ", ".join(path.name for path in checkpoints.checkpoints())
        raise ValueError(
            f"{run} has no checkpoint {name or 'yet'}; it has {there or 'none'}: name one of them by --checkpoint."
        )
    if damage := find_damage(checkpoint):
        raise ValueError(f"{damage}; name another checkpoint by --checkpoint.")
    return checkpoint / "model"


def with_policy_of(config: Config, subject: Subject, out: Path) -> Config:
    """`config` for the servers of `subject`, which write to `out`."""
    return replace(
        config,
        run=replace(config.run, dir=str(out)),
        model=replace(config.model, path=str(subject.hf_folder)),
        evaluation=replace(config.evaluation, path="", suites=[]),
        servers=replace(config.servers, routing="local"),
    )


def identify_weights(subject: Subject, dtype: str, named: str = "") -> str:
    """What the subject computes with: a digest of its weights and settings, their dtype in the server, and what
    else SGLang is told. "" for a server, which cannot be asked for its weights, unless they are `named`."""
    from megatron_ar3po.wiring.model_identity import digest_weights, identify_model

    of_folder = identify_model(subject.hf_folder)
    kept: dict[str, str] = {"config": of_folder.get("config.json", ""), "dtype": dtype}
    if subject.url:
        if not named:
            return ""
        kept["named"] = named
    elif subject.checkpoint is None:
        kept["weights"] = of_folder.get("weights", "")
    else:
        manifest = read_manifest(subject.checkpoint.parent)
        files = {} if manifest is None else manifest.files
        of_model = {name: file.xxh3 for name, file in files.items() if name.startswith("model/")}
        paths = [path for path in sorted(subject.checkpoint.rglob("*")) if path.is_file()]
        kept["weights"] = json.dumps(of_model) if of_model else digest_weights(paths)
    if subject.config.servers.sglang and not subject.url:  # quantization, a KV cache of 8 bits, ...
        kept["sglang"] = json.dumps(subject.config.servers.sglang, sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(json.dumps(kept, sort_keys=True).encode())


def find_weights(subject: Subject, out: Path, stack: ExitStack) -> Path:
    """The Hugging Face folder of the policy. A checkpoint becomes one for as long as it is needed; `ar3po export` keeps
    one."""
    if subject.checkpoint is None:
        return subject.hf_folder
    from megatron_ar3po.actor.conversion import to_hf  # slow to import

    target = out / "policy"
    shutil.rmtree(target, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    stack.callback(shutil.rmtree, target, ignore_errors=True)
    to_hf(
        subject.checkpoint,
        target,
        subject.hf_folder,
        file_bytes=1 << 30,
        report=lambda what, done, total: logger.debug("%s %d of %d bytes", what, done, total),
    )
    return target
