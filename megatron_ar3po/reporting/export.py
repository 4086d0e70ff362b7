"""`ar3po export RUN --out DIR`: the policy of a checkpoint as a Hugging Face folder, ready to be loaded or published.

    config.json, tokenizer         those of model.path
    model-*.safetensors            the weights, read back and compared with the checkpoint
    generation_config.json         how the run sampled: stop tokens, temperature, top_p
    README.md                      a model card: config, checksums of the data, figures, commit

DIR appears whole or not at all. RUN may be training: a checkpoint does not change.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.schema import Config
from megatron_ar3po.reporting.model_card import Exported, make_card
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder, name_of, step_of
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_format
from megatron_ar3po.run.manifest import find_damage

# What else a generation config may say of the choice of a token; the run did none of it.
_NOT_OURS = {
    *("top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty"),
    *("no_repeat_ngram_size", "num_beams", "penalty_alpha", "top_h"),
}


def add_export_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=parse_path, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--out", type=parse_path, required=True, metavar="DIR", help="the folder to be made"
    )
    parser.add_argument("--step", type=int, help="of its checkpoint [the newest]")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.set_defaults(command=export_command)


def export_command(arguments: argparse.Namespace) -> int:
    run, out = arguments.run, arguments.out
    if not (run / CONFIG_FILE).is_file():
        raise ValueError(f"{run} is no run (no {CONFIG_FILE}); name a run's folder.")
    check_format(run)
    if out.exists():
        raise ValueError(f"--out {out} is there already; name another folder, or remove it.")
    config = load_config([run / CONFIG_FILE])
    checkpoint = find_checkpoint(run, arguments.step)
    step = step_of(checkpoint)
    checksum = export_checkpoint(run, config, checkpoint, out)
    result = {"out": str(out), "step": step, "checksum": checksum}
    print(json.dumps(result) if arguments.json else f"{out}: step {step}, checksum {checksum}")
    return 0


def find_checkpoint(run: Path, step: int | None) -> Path:
    """Raises ValueError where there is none, or a damaged one."""
    folder = CheckpointFolder(run / "checkpoints", keep_last=1)
    checkpoint = folder.newest() if step is None else folder.path / name_of(step)
    if checkpoint is None or not (checkpoint / "model").is_dir():
        there = ", ".join(str(step_of(path)) for path in folder.checkpoints()) or "none"
        asked = "yet" if step is None else f"of step {step}"
        raise ValueError(f"{run} has no checkpoint {asked}; it has {there}: name one by --step.")
    if damage := find_damage(checkpoint):
        raise ValueError(f"{damage}; name another checkpoint by --step.")
    return checkpoint


def export_checkpoint(run: Path, config: Config, checkpoint: Path, out: Path) -> str:
    """The checksum of the weights."""
    from megatron_ar3po.actor.conversion import to_hf  # slow to import
    from megatron_ar3po.data.tokenizer import load_tokenizer, stop_token_ids

    base = Path(config.model.path)
    extra = config.rollout.extra_stop_token_ids
    stops = stop_token_ids(base, load_tokenizer(base), extra)
    generation = json.dumps(make_generation_config(base, config, stops), indent=2) + "\n"

    def write_notes(checksum: str) -> dict[str, str]:
        exported = Exported(run=run, config=config, step=step_of(checkpoint), checksum=checksum)
        return {"README.md": make_card(exported), "generation_config.json": generation}

    out.parent.mkdir(parents=True, exist_ok=True)
    return to_hf(
        checkpoint / "model",
        out,
        base,
        file_bytes=1 << 30,
        report=lambda what, done, total: None,
        notes=write_notes,
    )


def make_generation_config(base: Path, config: Config, stops: tuple[int, ...]) -> dict[str, Any]:
    """That of the base model, with the run's own sampling in the place of its."""
    path = base / "generation_config.json"
    said = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    kept = {name: value for name, value in said.items() if name not in _NOT_OURS}
    return kept | {
        "do_sample": True,
        "temperature": config.rollout.temperature,
        "top_p": config.rollout.top_p,
        "eos_token_id": list(stops),
    }
