"""The log of a rollout's finished responses: where it is, and which responses may be taken from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.rollout.response_log import ResponseLogFolder
from megatron_ar3po.run.policy_digest import PolicyDigest, digest_of
from megatron_ar3po.wiring.model_identity import digest_weights, identify_model
from megatron_ar3po.wiring.prompts_and_verifier import PromptsAndVerifier

_FORMAT = 1  # of a row


def log_folder(config: Config) -> Path:
    return config.run.path / "ledger" / "responses"


def open_response_log(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    inputs: PromptsAndVerifier,
    policy_digest: PolicyDigest,
    check_ownership: Callable[[], None],
) -> ResponseLogFolder:
    """Leader only."""
    log = ResponseLogFolder(
        log_folder(config),
        ranks.layout,
        settings=sampling_digest(config, inputs.stop_token_ids),
        grading=digest_of(asdict(config.rewards)),
        policy_digest=lambda: policy_digest.value,
        sync_s=config.run.ledger_sync_s,
        check_ownership=check_ownership,
    )
    stack.callback(log.close)
    return log


def sampling_digest(config: Config, stop_token_ids: tuple[int, ...]) -> str:
    """Of all that determines a response beside its prompt, its seed and what the policy was trained on. A prompt's id
    names the verifier and the chat template."""
    rollout = config.rollout
    return digest_of(
        _FORMAT,
        config.run.seed,
        config.run.deterministic,
        config.model.dtype,
        identify_model(Path(config.model.path)),
        digest_weights(files_of(config.model.megatron_path)),
        [rollout.temperature, rollout.top_p, rollout.max_response_tokens, stop_token_ids],
    )


def files_of(folder: str) -> list[Path]:
    return [path for path in sorted(Path(folder).iterdir()) if path.is_file()] if folder else []
