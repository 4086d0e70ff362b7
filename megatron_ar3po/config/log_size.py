"""How large the log of responses (RUN/ledger/responses) can become: it loses its files to checkpoints alone."""

from __future__ import annotations

from megatron_ar3po.config.schema import Config

# docs/checkpoints.md
_BYTES_PER_TOKEN, _BYTES_PER_RESPONSE = 11, 600


def most_log_bytes_of_step(config: Config) -> int:
    """Every prompt sampled with all its stages, and every response at full length."""
    rollout, algorithm = config.rollout, config.algorithm
    num_prompts = rollout.prompts_per_step
    if algorithm.dynamic_sampling:
        num_prompts = algorithm.max_sampling_rounds * (algorithm.prompts_per_round or num_prompts)
    of_response = _BYTES_PER_TOKEN * rollout.max_response_tokens + _BYTES_PER_RESPONSE
    return num_prompts * rollout.max_responses_per_prompt * of_response


def most_log_bytes(config: Config) -> int:
    """Of a run: the steps since the oldest checkpoint that is kept, while the next one is being written."""
    steps, every = config.run.num_steps, config.checkpoint.every_steps
    if every:
        steps = min(steps, (config.checkpoint.keep_last + 1) * every)
    return 0 if config.debug.mode == "train_only" else steps * most_log_bytes_of_step(config)
