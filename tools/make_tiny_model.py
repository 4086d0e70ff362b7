"""Makes the model and the prompts of examples/tiny_sum, tiny_sum_core or tiny_sum_wide.

A 0.3 M-parameter Qwen2 is taught the running-sum task by a teacher with misconceptions
(tools/tiny_sum_task.py says why), on one CPU thread in under a minute, and saved as a Hugging Face
folder:

    OUT/model/         config.json, model.safetensors, tokenizer, generation config
    OUT/train.jsonl    training prompts: core, mixed and easy ones
    OUT/heldout.jsonl  held-out prompts of the same make; none of their operand sequences is in
    train.jsonl, nor was it
                       shown to the model
    OUT/task.json      how it was made, and what the model gets right

OUT appears whole or not at all. When it is there and was made with the same options, nothing is
done.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from made_once import is_made, make_whole
from task_progress import task_progress
from tiny_sum_task import (
    CHARACTERS,
    MAX_RESPONSE_TOKENS,
    PAD,
    PROMPT_TOKENS,
    STOP,
    TASKS,
    UNKNOWN,
    Operands,
    Teacher,
    answer,
    choose_prompts,
    draw_operands,
    prompt_text,
    records,
    response_text,
)

from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

ensure_torchvision_schemas()
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar  # noqa: E402

CACHE = Path(__file__).resolve().parents[1] / ".cache"
PAD_ID, STOP_ID = CHARACTERS.index(PAD), CHARACTERS.index(STOP)
NOT_LEARNT = -100  # labels the loss leaves out


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what is made; kept in task.json."""

    version: int = 3  # of this program's output: raise it when the same options make something else
    task: str = "tiny_sum"
    seed: int = 0
    num_train: int = TASKS["tiny_sum"].num_train
    num_heldout: int = 256
    hidden_size: int = 128
    num_layers: int = 2
    num_steps: int = 900
    batch_size: int = 64
    learning_rate: float = 3e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="tiny_sum")
    parser.add_argument("--out", type=Path, help="default: .cache/TASK")
    parser.add_argument(
        "--seed", type=int, default=0, help="teacher, prompts and model follow from it"
    )
    parser.add_argument("--steps", type=int, help="of teaching; default: as the task says")
    parser.add_argument("--force", action="store_true", help="make it anew even when it is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()  # a bar for one file of a megabyte
    recipe = Recipe(
        task=args.task,
        seed=args.seed,
        num_train=TASKS[args.task].num_train,
        num_steps=args.steps or TASKS[args.task].num_steps,
    )
    out = args.out or CACHE / args.task
    if not args.force and is_made(out, asdict(recipe)):
        print(f"{out} is there already")
        (out / "task.json").touch()  # newer than this program: make has nothing to do
        return
    started = time.monotonic()
    with make_whole(out) as folder:
        facts = write_task(folder, recipe)
        (folder / "task.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{out}: made in {time.monotonic() - started:.0f} s; start: {facts['heldout']}")


def write_task(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Everything but task.json, whose content is returned."""
    task = TASKS[recipe.task]
    teacher = Teacher.with_misconceptions(recipe.seed, task)
    train = choose_prompts(teacher, recipe.num_train, f"train {recipe.seed}", task=task)
    heldout = choose_prompts(
        teacher, recipe.num_heldout, f"heldout {recipe.seed}", avoid=train, task=task
    )
    for name, prompts in (("train", train), ("heldout", heldout)):
        lines = [
            json.dumps(record) + "\n"
            for record in records(prompts, teacher, f"{recipe.task}_{name}")
        ]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    model = train_model(teacher, recipe, never=heldout)
    save_model(model, folder / "model")
    facts = {"recipe": asdict(recipe), "num_parameters": model.num_parameters()}
    generator = torch.Generator().manual_seed(recipe.seed)
    for name, prompts in (("train", train), ("heldout", heldout)):
        facts[name] = measure(model, prompts, teacher, generator)
    return facts


def train_model(teacher: Teacher, recipe: Recipe, never: Collection[Operands]) -> Qwen2ForCausalLM:
    """Imitates the teacher on fresh examples, none with the operands of `never`."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(f"lessons {recipe.seed}")
    model = Qwen2ForCausalLM(model_config(recipe))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    with task_progress("teaching", recipe.num_steps) as advance:
        for step in range(recipe.num_steps):
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * schedule(
                step, recipe.num_steps
            )
            token_ids, labels = lesson(teacher, recipe, rng, never)
            loss = model(input_ids=token_ids, labels=labels).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            advance(step + 1, f"loss {loss.item():.3f}")
    return model


def model_config(recipe: Recipe) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(CHARACTERS),
        hidden_size=recipe.hidden_size,
        intermediate_size=2 * recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=STOP_ID,
        pad_token_id=PAD_ID,
        dtype="float32",
    )


def schedule(step: int, num_steps: int) -> float:
    """Linear warm-up over a tenth, then linear decay to a tenth."""
    warmup = max(num_steps // 10, 1)
    return min((step + 1) / warmup, 1 - 0.9 * (step - warmup) / max(num_steps - warmup, 1))


def lesson(
    teacher: Teacher, recipe: Recipe, rng: random.Random, never: Collection[Operands]
) -> tuple[torch.Tensor, torch.Tensor]:
    """[size, prompt + response] token ids, and labels that leave out prompt and padding."""
    rows = []
    while len(rows) < recipe.batch_size:
        operands = draw_operands(rng, TASKS[recipe.task])
        if operands not in never:
            response = response_text(teacher.respond(operands, rng)) + STOP
            rows.append(
                token_ids_of(prompt_text(operands) + response.ljust(MAX_RESPONSE_TOKENS, PAD))
            )
    token_ids = torch.tensor(rows)
    labels = token_ids.masked_fill(token_ids == PAD_ID, NOT_LEARNT)
    labels[:, :PROMPT_TOKENS] = NOT_LEARNT
    return token_ids, labels


def token_ids_of(text: str) -> list[int]:
    return [CHARACTERS.index(character) for character in text]


def save_model(model: Qwen2ForCausalLM, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=STOP_ID, pad_token_id=PAD_ID
    )
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and text comes back without added spaces."""
    vocabulary = {character: index for index, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=STOP,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


@torch.no_grad()
def measure(
    model: Qwen2ForCausalLM,
    prompts: Mapping[Operands, str],
    teacher: Teacher,
    generator: torch.Generator,
    num_samples: int = 16,
) -> dict[str, Any]:
    """What the model gets right at temperature 1, beside what the teacher does."""
    model.eval()
    rates = dict.fromkeys(prompts, 0.0)
    for _ in range(num_samples):
        for operands, text in zip(prompts, sample(model, prompts, generator), strict=True):
            is_right = text.endswith(STOP) and text[:-1].split(";")[-1] == answer(operands)
            rates[operands] += is_right / num_samples
    return {
        "num_prompts": len(prompts),
        "pass_at_1": round(_mean(rates.values()), 3),
        "teacher_pass_at_1": round(_mean(teacher.pass_rate(operands) for operands in prompts), 3),
        "low_frac": round(_mean(rate <= 0.2 for rate in rates.values()), 3),
        "pass_at_1_by_difficulty": {
            name: round(_mean(rates[o] for o, its_name in prompts.items() if its_name == name), 3)
            for name in sorted(set(prompts.values()))
        },
    }


def sample(
    model: Qwen2ForCausalLM, prompts: Iterable[Operands], generator: torch.Generator
) -> list[str]:
    """One response a prompt, up to and with its stop token; cut at the limit."""
    token_ids = torch.tensor([token_ids_of(prompt_text(operands)) for operands in prompts])
    for _ in range(MAX_RESPONSE_TOKENS):
        probabilities = model(input_ids=token_ids).logits[:, -1].softmax(-1)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        token_ids = torch.cat([token_ids, drawn], dim=1)
    texts = ["".join(CHARACTERS[i] for i in row[PROMPT_TOKENS:]) for row in token_ids.tolist()]
    return [text[: text.index(STOP) + 1] if STOP in text else text for text in texts]


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected)


if __name__ == "__main__":
    main()
