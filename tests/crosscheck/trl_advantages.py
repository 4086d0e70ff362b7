"""TRL's own lines for advantages and for the importance ratio, which stand in the middle of its generation.

They are taken from the installed source by their first and last statement and run as they are, with what they read from
the trainer around them. Imported by `trl_losses.py`, where TRL is on the path.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch


def run_statements(
    function: Callable[..., Any], first: str, last: str, known: dict[str, Any]
) -> Any:
    """The statements of one block of `function`, from the one that starts with `first` to the one that starts with
    `last`; the names known then."""
    module = inspect.getmodule(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for block in _blocks(tree):
        texts = [ast.unparse(statement) for statement in block]
        starts = [i for i, text in enumerate(texts) if text.startswith(first)]
        ends = [i for i, text in enumerate(texts) if text.startswith(last)]
        if starts and ends and starts[0] <= ends[-1]:
            code = ast.Module(body=block[starts[0] : ends[-1] + 1], type_ignores=[])
            names = vars(module) | known
            exec(compile(code, inspect.getsourcefile(function) or "trl", "exec"), names)
            return SimpleNamespace(**{k: v for k, v in names.items() if k.isidentifier()})
    raise LookupError(f"{function.__qualname__} has no block from {first!r} to {last!r}")


def _blocks(tree: ast.AST) -> Sequence[list[ast.stmt]]:
    found = []
    for node in ast.walk(tree):
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                found.append(block)
    return found


def grpo_advantages(rewards: torch.Tensor, group_size: int, scale_rewards: str) -> torch.Tensor:
    from trl.trainer.grpo_trainer import GRPOTrainer

    known = _make_locals(rewards, group_size)
    known["self"].scale_rewards = scale_rewards
    known["self"].multi_objective_aggregation = "sum_then_normalize"
    return _advantages(GRPOTrainer, known)


def rloo_advantages(
    rewards: torch.Tensor, group_size: int, beta: float, tensors: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Its KL is taken off the reward."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    known = _make_locals(rewards, group_size)
    known["self"].reward_clip_range = None
    known["self"].normalize_advantages = False
    known["self"].beta = beta
    known |= {
        "gather": lambda x: x,
        "old_per_token_logps": tensors["old_logprobs"],
        "ref_per_token_logps": tensors["reference_logprobs"],
        "completion_mask": tensors["mask"],
    }
    return _advantages(RLOOTrainer, known)


def importance_ratio(mode: str, cap: float, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """[B, T] or, for a sequence, [B, 1]."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    trainer = SimpleNamespace(
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=None,
        vllm_importance_sampling_clip_max=cap,
    )
    known = {
        "self": trainer,
        "completion_mask": tensors["mask"],
        "tool_mask": None,
        "old_per_token_logps": tensors["old_logprobs"],
        "sampling_per_token_logps": tensors["behaviour_logprobs"],
    }
    return run_statements(
        GRPOTrainer._generate_and_score_completions,
        "mask = completion_mask if tool_mask",
        "if self.vllm_importance_sampling_mode in",
        known,
    ).vllm_importance_sampling_ratio


def _make_locals(rewards: torch.Tensor, group_size: int) -> dict[str, Any]:
    trainer = SimpleNamespace(
        reward_weights=torch.ones(1, dtype=rewards.dtype), reward_funcs=[None]
    )
    return {
        "self": trainer,
        "rewards_per_func": rewards[:, None],
        "num_generations": group_size,
        "device": torch.device("cpu"),
    }


def _advantages(trainer: Any, known: dict[str, Any]) -> torch.Tensor:
    return run_statements(
        trainer._generate_and_score_completions,
        "unscorable_mask =",
        "advantages = torch.nan_to_num",
        known,
    ).advantages
