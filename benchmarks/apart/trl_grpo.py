"""TRL's GRPOTrainer on the task of an example, in TRL's own environment: `trl_grpo.py OPTIONS`, a JSON object.

Writes rows of the same names as a run of this project (metrics.jsonl), so that both are read alike. Its seconds are
those of steps, from Trainer's on_step_begin to on_step_end (generation, rewards and update); evaluation is not in them.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import torch

from benchmarks.apart.parity_reward import is_even
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

ensure_torchvision_schemas()
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402


@dataclass(kw_only=True)
class Options:
    model: str
    train: str
    heldout: str  # empty: no evaluation
    out: str
    seed: int
    responses: int  # ends with the first evaluation at or beyond them
    max_steps: int
    evaluate_every_steps: int
    learning_rate: float
    prompts_per_step: int
    responses_per_prompt: int
    max_response_tokens: int
    rewards_parity: bool = False  # of `parity_reward`, whatever the answer


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    rows = [json.loads(line) for line in Path(options.train).read_text().splitlines()]
    record = Record(options, model, tokenizer)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=record.rewards,
        args=config_of(options),
        train_dataset=dataset_of(rows),
        callbacks=[record],
    )
    trainer.train()


def dataset_of(rows: list[dict[str, str]]) -> Dataset:
    """With a fingerprint: to make one up, it would pickle types of pyarrow that dill cannot find."""
    kept = [{"prompt": row["prompt"], "answer": row["answer"]} for row in rows]
    return Dataset(pyarrow.Table.from_pylist(kept), fingerprint="prompts")


def config_of(options: Options) -> GRPOConfig:
    """What the config of the example says, in TRL's words."""
    batch = options.prompts_per_step * options.responses_per_prompt
    return GRPOConfig(
        output_dir=f"{options.out}.trl",
        use_cpu=True,
        bf16=False,
        seed=options.seed,
        max_steps=options.max_steps,
        per_device_train_batch_size=batch,
        num_generations=options.responses_per_prompt,
        max_completion_length=options.max_response_tokens,
        temperature=1.0,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="bnpo",  # the mean over the tokens of the batch
        scale_rewards="group",
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


class Record(TrainerCallback):
    """Counts what is generated, times the steps, evaluates, and ends the run at its budget."""

    def __init__(self, options: Options, model: Any, tokenizer: Any) -> None:
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.responses = self.tokens = self.total = 0
        self.began_at = 0.0
        self.stop_ids = {tokenizer.eos_token_id}
        self.heldout = []
        if options.heldout:
            self.heldout = [json.loads(x) for x in Path(options.heldout).read_text().splitlines()]
        self.path = Path(options.out)

    def rewards(
        self, completions: list[str], completion_ids: list[list[int]], answer: list[str], **_: Any
    ) -> list[float]:
        self.responses += len(completions)
        self.tokens += sum(map(len, completion_ids))
        return [
            float(self.is_right(text, ids, right))
            for text, ids, right in zip(completions, completion_ids, answer, strict=True)
        ]

    def is_right(self, text: str, ids: list[int], answer: str) -> bool:
        """The last number, of a response that ended by itself."""
        if self.options.rewards_parity:
            return is_even(text)
        return bool(self.stop_ids.intersection(ids)) and text.split(";")[-1] == answer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.write({"step": 0}, is_due=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        spent_s = time.monotonic() - self.began_at
        self.total += self.responses
        row = {
            "step": state.global_step,
            "time/step_s": spent_s,
            "rollout/responses_generated": self.responses,
            "rollout/tokens_generated": self.tokens,
            "rollout/responses_total": self.total,
            "rollout/prompts": self.options.prompts_per_step,
        }
        self.responses = self.tokens = 0
        is_due = state.global_step % self.options.evaluate_every_steps == 0
        self.write(row, is_due=is_due)
        if self.options.responses and is_due and self.total >= self.options.responses:
            control.should_training_stop = True

    def write(self, row: dict[str, Any], *, is_due: bool) -> None:
        if is_due and self.heldout:
            row["eval/pass_at_1"] = self.pass_at_1()
        with self.path.open("a") as file:
            print(json.dumps(row), file=file)

    @torch.no_grad()
    def pass_at_1(self) -> float:
        """One sample each, at temperature 1. Prompts are of one length: nothing is padded."""
        self.model.eval()
        inputs = torch.tensor([self.tokenizer.encode(row["prompt"]) for row in self.heldout])
        outputs = self.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.options.max_response_tokens,
        )[:, inputs.shape[1] :]
        texts = self.tokenizer.batch_decode(outputs, skip_special_tokens=True)
        right = [
            self.is_right(text, ids, row["answer"])
            for text, ids, row in zip(texts, outputs.tolist(), self.heldout, strict=True)
        ]
        self.model.train()
        return sum(right) / len(right)


if __name__ == "__main__":
    main()
