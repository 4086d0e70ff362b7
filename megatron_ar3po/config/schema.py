"""Every option, declared once: name, type, default, what it changes and in which unit.

Section names are room names, so a config file is the floor plan once more. A rule inside one section stands in its
`__post_init__`; rules across sections are in `validate.py`. A config is never changed after loading; derived values
are properties. `PRESETS` holds what `algorithm.name` sets when neither a file nor the command line says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "ar3po": {
        "rollout": {"num_stages": 2, "responses_per_stage": 4},
        "reuse": {"enabled": True},
        "algorithm": {"dynamic_sampling": False},
    },
    "grpo": {
        "rollout": {"num_stages": 1, "responses_per_stage": 8},
        "reuse": {"enabled": False},
        "algorithm": {"dynamic_sampling": False},
    },
    "dapo": {
        "rollout": {"num_stages": 1, "responses_per_stage": 8},
        "reuse": {"enabled": False},
        "algorithm": {"dynamic_sampling": True},
    },
}


ADVANTAGES = ("group", "rloo", "leave_one_out", "global", "global_baseline")
ImportanceSampling = Literal["off", "token", "sequence", "token_mask", "sequence_mask"]
PICKS = ("uniform", "newest", "shortest", "likely")
POLICY_LOSSES = ("ppo", "dual_clip", "gspo", "cispo", "gmpo")


def require(condition: bool, message: str) -> None:
    """A rule a user can mend: the message says what was found, what it clashes with, what to do."""
    if not condition:
        raise ValueError(message)


def require_name_or_path(option: str, value: str, names: tuple[str, ...]) -> None:
    """A built-in name, or the import path of a user's own function (checked by import when the run starts)."""
    module, colon, function = value.partition(":")
    is_path = (
        bool(colon)
        and function.isidentifier()
        and all(part.isidentifier() for part in module.split("."))
    )
    require(
        value in names or is_path,
        f"{option}={value} is neither one of {', '.join(names)} nor an import path; write one of these names, or "
        "'package.module:function' for a function of your own.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The run as a whole."""

    name: str = "run"  # names the run's folder and its log lines
    dir: str = ""  # where the run's files lie; empty: runs/NAME
    num_steps: int = 100  # training steps; one step is one batch of prompts
    seed: int = 0  # every random choice of the run is a function of it
    deterministic: bool = (
        False  # the servers honour the seed of each response: the same run draws the same samples
    )
    resume: bool = (
        False  # go on from the newest checkpoint in run.dir; false: run.dir must not hold a run
    )
    collective_timeout_s: float = 1800.0  # how long a rank waits for the others before it gives up
    stall_report_s: float = (
        120.0  # name who is missing after so long, twice as long as ever in that phase; 0: never
    )
    progress: Literal["auto", "bar", "plain"] = "auto"  # bar on a terminal, plain lines otherwise

    def __post_init__(self) -> None:
        require(self.num_steps >= 0, f"run.num_steps={self.num_steps} is negative; use 0 or more.")
        require(
            self.collective_timeout_s > 0,
            f"run.collective_timeout_s={self.collective_timeout_s} must be more than 0 seconds.",
        )
        require(
            self.stall_report_s >= 0,
            f"run.stall_report_s={self.stall_report_s} is negative; use 0 for never, or seconds.",
        )

    @property
    def path(self) -> Path:
        return Path(self.dir) if self.dir else Path("runs") / self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The policy to start from."""

    path: str = ""  # folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer)
    megatron_path: str = (
        ""  # a Megatron checkpoint to start from; config and tokenizer stay those of path
    )
    dtype: Literal["float32", "bfloat16"] = "float32"  # weights of actor and server alike


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Training prompts: JSONL, one object a line with the fields below."""

    path: str = ""  # JSONL file of training prompts
    prompt_field: str = "prompt"  # a string, or a list of chat messages
    answer_field: str = "answer"  # the ground truth, a non-empty string
    apply_chat_template: bool = (
        False  # true: a string prompt becomes one user message of the tokenizer's template
    )
    max_prompt_tokens: int = 1024  # longer prompts are refused when the data is loaded
    shuffle: bool = True  # a fresh order each epoch, a function of run.seed
    unusable_answers: Literal["refuse", "skip"] = (
        "refuse"  # lines whose answer the verifier can never grade: end the run at once, or leave them out and say so
    )

    def __post_init__(self) -> None:
        require(
            self.max_prompt_tokens > 0,
            f"data.max_prompt_tokens={self.max_prompt_tokens} must be at least 1.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardsConfig:
    """How a response is graded."""

    verifier: str = "math"  # math, last_number, or an import path 'package.module:factory'
    timeout_s: float = (
        5.0  # per response; then the worker is killed and the verdict is 'timeout', reward 0
    )
    num_workers: int = 1  # verifier processes per replica
    truncated: Literal["incorrect", "grade"] = (
        "incorrect"  # a response without its stop token: reward 0, or graded
    )
    correct: float = 1.0  # reward of a correct response
    incorrect: float = 0.0  # reward of any other
    max_error_frac: float = (
        0.5  # more verifier errors and time-outs than this share of a step halt the run
    )
    overlong_penalty_tokens: int = (
        0  # DAPO's soft overlong punishment: length of the interval before the limit; 0: off
    )
    answer_format: Literal["any", "boxed", "answer_line", "hashes"] = (
        "any"  # where the final answer stands: a box, "Answer:", "####" (math only)
    )
    strict_format: bool = False  # true: only answer_format counts, closed and complete (math only)
    answer_fallback: bool = (
        True  # without a marked answer the last formula or number counts (math only)
    )
    format_reward: float = 0.0  # added when the answer is marked, right or wrong (math only)
    tolerance: float = (
        0.0  # absolute, of numbers; a prompt's metadata field `error` goes before it (math only)
    )
    worker_memory_mb: int = 1024  # what a verifier process may use beyond its start

    def __post_init__(self) -> None:
        require(
            self.timeout_s > 0, f"rewards.timeout_s={self.timeout_s} must be more than 0 seconds."
        )
        require(
            self.num_workers >= 1, f"rewards.num_workers={self.num_workers} must be at least 1."
        )
        require(
            self.correct > self.incorrect,
            f"rewards.correct={self.correct} must be above rewards.incorrect={self.incorrect}.",
        )
        require(
            self.tolerance >= 0,
            f"rewards.tolerance={self.tolerance} is negative; use 0 for exact answers.",
        )
        require(
            not (self.strict_format and self.answer_format == "any"),
            "rewards.strict_format=true needs one rewards.answer_format; "
            "use boxed, answer_line or hashes.",
        )
        require(
            self.worker_memory_mb >= 256,
            f"rewards.worker_memory_mb={self.worker_memory_mb} is too little for SymPy; "
            "use 256 or more.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Adaptive rollout: what is sampled, in which stages."""

    num_stages: int = 2  # S: a prompt that is unsolved after a stage enters the next, at most S
    responses_per_stage: int = 4  # k: responses a prompt gets in each stage
    stage_plan: list[int] = field(
        default_factory=list[int]
    )  # unequal stages, as [4, 4, 8]; empty: num_stages of responses_per_stage
    stage_rule: str = (
        "fixed"  # fixed, difficulty (by the prompt's history), or 'package.module:function'
    )
    difficulty_solve_frac: float = 0.75  # stage_rule=difficulty: chance that the first stage solves
    difficulty_least_responses: int = 2  # stage_rule=difficulty: of a first stage, however easy
    history_decay: float = (
        0.8  # what earlier steps say of a prompt weighs this much less each time it is seen
    )
    max_tokens_per_step: int = (
        0  # generated, over all replicas; no stage after the first begins beyond it. 0: no cap
    )
    cancel_solved: bool = (
        False  # abort a stage's other responses at its first correct one; favours short answers
    )
    cancelled_counts_as: Literal["nothing", "truncated"] = (
        "nothing"  # what a cancelled response is: no member of its group, or one with reward 0
    )
    prompts_per_step: int = 16  # prompts of one training step, over all replicas
    temperature: float = 1.0  # of sampling; the actor divides its logits by it too
    top_p: float = 1.0  # nucleus sampling; below 1 the server's log-probs stay those before the cut
    max_response_tokens: int = 256  # the stop token included
    extra_stop_token_ids: list[int] = field(
        default_factory=list[int]
    )  # end a response too, beside the model's own stop tokens
    stage_scheduling: Literal["continuous", "barrier"] = (
        "continuous"  # barrier: a stage waits for all prompts
    )

    def __post_init__(self) -> None:
        for name in (
            "num_stages",
            "responses_per_stage",
            "prompts_per_step",
            "max_response_tokens",
        ):
            value = getattr(self, name)
            require(value >= 1, f"rollout.{name}={value} must be at least 1.")
        require(
            self.temperature > 0,
            f"rollout.temperature={self.temperature} must be above 0 to explore; use 1.0.",
        )
        require(
            0 < self.top_p <= 1,
            f"rollout.top_p={self.top_p} must lie in (0, 1]; use 1.0 for no cut.",
        )
        require(
            self.max_tokens_per_step >= 0,
            f"rollout.max_tokens_per_step={self.max_tokens_per_step} is negative; 0 means no cap.",
        )
        self._check_stages()

    def _check_stages(self) -> None:
        require(
            all(size >= 1 for size in self.stage_plan),
            f"rollout.stage_plan={self.stage_plan}: every stage needs at least 1 response.",
        )
        require(
            self.stage_rule in ("fixed", "difficulty") or ":" in self.stage_rule,
            f"rollout.stage_rule={self.stage_rule} is not known; use fixed, difficulty, or the import path of your own "
            "function, 'package.module:function'.",
        )
        require(
            0 < self.difficulty_solve_frac < 1,
            f"rollout.difficulty_solve_frac={self.difficulty_solve_frac} must lie between 0 and 1.",
        )
        require(
            self.difficulty_least_responses >= 1,
            f"rollout.difficulty_least_responses={self.difficulty_least_responses} must be at least 1.",
        )
        require(
            0 <= self.history_decay <= 1,
            f"rollout.history_decay={self.history_decay} must lie in [0, 1]; 1 forgets nothing.",
        )

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Responses of each stage; with another rule than fixed their sum is the most a prompt can get."""
        return tuple(self.stage_plan) or (self.responses_per_stage,) * self.num_stages

    @property
    def max_responses_per_prompt(self) -> int:
        return sum(self.stage_sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServersConfig:
    """The SGLang servers that sample, and how they are asked."""

    max_concurrent_requests: int = 0  # per server; 0: as many of full length as its KV cache holds
    routing: Literal["local", "global"] = (
        "local"  # global: one sglang-router in front of the servers of all replicas
    )
    servers_per_replica: int = (
        1  # SGLang servers beside each replica, spread over its nodes; they share its GPUs there
    )
    urls: list[str] = field(
        default_factory=list[str]
    )  # servers that run already, replica by replica; whoever started them ends them. Empty: the run starts its own
    start_timeout_s: float = 600.0  # from start to ready
    request_timeout_s: float = 600.0  # one sample, queueing included
    hang_timeout_s: float = (
        120.0  # a server with requests in flight that generates nothing for so long is restarted
    )
    max_retries: int = 2  # of one lost request, each on a restarted or another server
    max_server_restarts: int = 3  # per server and run; then the run ends with its log
    port: int = 0  # first server port; 0: a free one from the system. A port in use is an error
    max_total_tokens: int = (
        65536  # KV cache of a server, in tokens (CPU); on a GPU sglang.mem_fraction_static rules
    )
    sglang: dict[str, Any] = field(
        default_factory=dict[str, Any]
    )  # further ServerArgs under SGLang's own names

    def __post_init__(self) -> None:
        require(
            self.servers_per_replica >= 1,
            f"servers.servers_per_replica={self.servers_per_replica} must be at least 1.",
        )
        require(
            self.max_concurrent_requests >= 0,
            f"servers.max_concurrent_requests={self.max_concurrent_requests} is negative; 0 takes the limit from the "
            "server's KV cache.",
        )
        for name in ("start_timeout_s", "request_timeout_s", "hang_timeout_s"):
            value = getattr(self, name)
            require(value > 0, f"servers.{name}={value} must be more than 0 seconds.")
        for name in ("max_retries", "max_server_restarts", "port"):
            value = getattr(self, name)
            require(value >= 0, f"servers.{name}={value} is negative; use 0 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReuseConfig:
    """The reuse store and how a borrowed response trains."""

    enabled: bool = True  # false: nothing is stored, nothing is borrowed
    option: Literal["detach", "recompute", "stored"] = (
        "recompute"  # Option II, Option I, or stored log-probs (ablation); docs/comparison.md says why
    )
    weight: float = 1.0  # factor on the advantages of a group that borrowed
    max_borrowed_frac: float = (
        1.0  # at most this share of the groups that train have borrowed; 1: no cap
    )
    pick: str = "uniform"  # which stored response a group borrows: uniform, newest, shortest, likely (most likely now),
    # or an import path 'package.module:function'
    max_responses_per_prompt: int = 8  # of one prompt in the store
    keep: Literal["newest", "reservoir"] = "newest"  # which stay when a prompt has more
    max_shard_bytes: int = (
        0  # of one shard's answers; beyond it the oldest are evicted; 0: no limit
    )
    max_age_steps: int = 0  # a response older than this is evicted and not lent; 0: no limit
    max_times_borrowed: int = 0  # a response lent this often is not lent again; 0: no limit
    min_mean_logprob: float = (
        0.0  # not lent when its mean token log-prob under the current policy is lower, as with
    )
    # -1.5; 0: no floor
    max_scored_candidates: int = (
        4  # of one unsolved prompt, scored by the servers for pick=likely or a floor
    )
    max_logprob_drift: float = (
        0.0  # option=recompute: a response whose recomputed log-probs differ by more on average
    )
    # from the stored ones (nats per token) trains as with detach; 0: no limit

    def __post_init__(self) -> None:
        require(
            self.max_responses_per_prompt >= 1,
            f"reuse.max_responses_per_prompt={self.max_responses_per_prompt} must be at least 1.",
        )
        require(
            self.weight > 0,
            f"reuse.weight={self.weight} must be above 0; reuse.enabled=false borrows nothing.",
        )
        require(
            0 <= self.max_borrowed_frac <= 1,
            f"reuse.max_borrowed_frac={self.max_borrowed_frac} must lie in [0, 1]; use 1 for no cap.",
        )
        require_name_or_path("reuse.pick", self.pick, PICKS)
        for name in ("max_age_steps", "max_times_borrowed", "max_shard_bytes", "max_logprob_drift"):
            value = getattr(self, name)
            require(value >= 0, f"reuse.{name}={value} is negative; 0 means no limit.")
        require(
            self.min_mean_logprob <= 0,
            f"reuse.min_mean_logprob={self.min_mean_logprob} is above 0, which no log-prob is; use a negative number, "
            "or 0 for no floor.",
        )
        require(
            self.max_scored_candidates >= 1,
            f"reuse.max_scored_candidates={self.max_scored_candidates} must be at least 1; nothing is scored unless "
            "reuse.pick=likely or reuse.min_mean_logprob asks for it.",
        )

    @property
    def wants_scores(self) -> bool:
        """The servers are asked how likely stored answers are now."""
        return self.pick == "likely" or self.min_mean_logprob < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AlgorithmConfig:
    """The objective. `name` chooses a preset for the rollout, reuse and sampling options below it."""

    name: Literal["ar3po", "grpo", "dapo"] = "ar3po"
    advantage: str = "group"  # one of ADVANTAGES (docs/algorithms.md), or an import path 'package.module:function'
    advantage_std: Literal["population", "sample", "none"] = (
        "population"  # what divides all of them but rloo; none: Dr. GRPO
    )
    downsample_to: int = 0  # responses of a group that train, chosen before the advantages; 0: all
    downsample_rule: Literal["max_variance", "random"] = (
        "max_variance"  # those whose rewards differ most (PODS), or any
    )
    policy_loss: str = (
        "ppo"  # ppo, dual_clip, gspo, cispo, gmpo, or an import path 'package.module:function'
    )
    loss_aggregation: Literal[
        "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "prompt_mean"
    ] = "token_mean"
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.28  # clip-higher (DAPO); equal to clip_ratio_low for plain PPO
    dual_clip_ratio: float = 3.0  # only with policy_loss=dual_clip
    num_mini_batches: int = 1  # optimizer steps per training step
    kl_coef: float = 0.0  # weight of the KL to the reference policy; 0: no reference policy is kept
    kl_in: Literal["loss", "reward"] = (
        "loss"  # a term of each token's loss, or a penalty on the response's reward
    )
    reference_refresh_steps: int = (
        0  # the reference becomes the policy as it is every so many steps; 0: it stays the first
    )
    kl_estimator: Literal["k1", "k2", "k3", "low_var"] = "k3"
    entropy_coef: float = 0.0  # entropy bonus; 0: entropy is not computed for the loss
    dynamic_sampling: bool = (
        False  # DAPO: draw new prompts until prompts_per_step groups carry signal
    )
    dynamic_sampling_by: Literal["correctness", "reward"] = (
        "correctness"  # which groups it keeps: correct and wrong in one (DAPO), or rewards that differ
    )
    max_sampling_rounds: int = 8  # bound of dynamic sampling; then the step trains on what it has
    prompts_per_round: int = (
        0  # of dynamic sampling; more than rollout.prompts_per_step is over-sampling. 0: as many
    )
    overlong_filtering: bool = False  # truncated responses carry no gradient
    importance_sampling: ImportanceSampling = (
        "off"  # of engine/trainer mismatch: ratios cut to the cap, or masked
    )
    importance_sampling_cap: float = 2.0

    def __post_init__(self) -> None:
        require(
            0 < self.clip_ratio_low < 1,
            f"algorithm.clip_ratio_low={self.clip_ratio_low} must lie in (0, 1); use 0.2.",
        )
        require(
            self.clip_ratio_high > 0,
            f"algorithm.clip_ratio_high={self.clip_ratio_high} must be above 0; use 0.28.",
        )
        require_name_or_path("algorithm.advantage", self.advantage, ADVANTAGES)
        require_name_or_path("algorithm.policy_loss", self.policy_loss, POLICY_LOSSES)
        require(
            self.downsample_to == 0 or self.downsample_to >= 2,
            f"algorithm.downsample_to={self.downsample_to} leaves no group to compare within; use 2 or more, "
            "or 0 for all.",
        )
        require(
            self.dual_clip_ratio > 1,
            f"algorithm.dual_clip_ratio={self.dual_clip_ratio} must be above 1; use 3.0.",
        )
        require(
            self.kl_coef >= 0,
            f"algorithm.kl_coef={self.kl_coef} is negative; use 0 for no KL term.",
        )
        require(
            self.reference_refresh_steps >= 0,
            f"algorithm.reference_refresh_steps={self.reference_refresh_steps} is negative; use 0 to keep the first.",
        )
        require(
            self.importance_sampling_cap > 0,
            f"algorithm.importance_sampling_cap={self.importance_sampling_cap} must be above 0; use 2.0.",
        )
        require(
            self.num_mini_batches >= 1,
            f"algorithm.num_mini_batches={self.num_mini_batches} must be at least 1.",
        )
        require(
            self.max_sampling_rounds >= 1,
            f"algorithm.max_sampling_rounds={self.max_sampling_rounds} must be at least 1.",
        )
        require(
            self.prompts_per_round >= 0,
            f"algorithm.prompts_per_round={self.prompts_per_round} is negative; 0 draws rollout.prompts_per_step.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorConfig:
    """Megatron-Core: layout, optimizer, batching."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1  # each sequence cut over so many ranks; needs Transformer Engine
    sequence_parallel: bool = (
        False  # shard activations of norms over TP; needs tensor_parallel_size > 1
    )
    max_tokens_per_microbatch: int = (
        4096  # packed tokens of one forward; a longer sequence is an error before training
    )
    logprob_chunk_tokens: int = 2048  # response tokens whose logits exist at one time
    measure_entropy: bool = (
        True  # actor/entropy among the metrics; false saves a pass over the logits of an update
    )
    learning_rate: float = 1e-6
    lr_warmup_steps: int = 0  # optimizer steps of linear warm-up
    lr_decay: Literal["constant", "linear", "cosine"] = (
        "constant"  # over run.num_steps * algorithm.num_mini_batches
    )
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    clip_grad: float = 1.0  # global gradient norm; 0: no clipping
    recompute: Literal["none", "full"] = "none"  # activation recompute
    use_distributed_optimizer: bool = True  # optimizer state sharded over DP
    megatron: dict[str, Any] = field(
        default_factory=dict[str, Any]
    )  # further TransformerConfig fields under Megatron's names

    def __post_init__(self) -> None:
        for name in (
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "context_parallel_size",
            "max_tokens_per_microbatch",
        ):
            value = getattr(self, name)
            require(value >= 1, f"actor.{name}={value} must be at least 1.")
        require(
            not self.sequence_parallel or self.tensor_parallel_size > 1,
            "actor.sequence_parallel=true needs actor.tensor_parallel_size > 1; raise it or set "
            "actor.sequence_parallel=false.",
        )

    @property
    def replica_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSyncConfig:
    """Actor -> servers."""

    transport: Literal["tensor", "distributed", "disk"] = (
        "tensor"  # memory of this machine; a broadcast to servers elsewhere; a folder both see
    )
    disk_dir: str = ""  # with transport=disk: where the folders lie; empty: run.dir/weight_sync
    bucket_bytes: int = 512 * 1024 * 1024  # size of one transfer; extra memory is about two of them
    verify: bool = (
        False  # compare checksums of what was sent with what the server holds, every publish
    )
    timeout_s: float = 300.0  # of each call to a server

    def __post_init__(self) -> None:
        require(
            self.bucket_bytes > 0, f"weight_sync.bucket_bytes={self.bucket_bytes} must be above 0."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Held-out prompts, sampled with the same settings before and after training."""

    path: str = ""  # JSONL of held-out prompts; empty: no evaluation
    every_steps: int = 0  # also during training; 0: only before the first and after the last step
    samples_per_prompt: int = 4
    max_prompts: int = 0  # the first so many; 0: all
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        require(self.samples_per_prompt >= 1, "evaluation.samples_per_prompt must be at least 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """What a resume needs."""

    every_steps: int = 0  # 0: only after the last step and when asked to stop
    keep_last: int = 2  # older checkpoints are deleted
    in_background: bool = (
        True  # training goes on while files are written, from a copy in host memory
    )
    timeout_s: float = 1800.0  # of writing one checkpoint
    export_hf: bool = False  # also write the final policy as a Hugging Face folder, RUN/hf

    def __post_init__(self) -> None:
        require(self.keep_last >= 1, f"checkpoint.keep_last={self.keep_last} must be at least 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservabilityConfig:
    """What a run writes down."""

    record_groups_per_step: int = 2  # whole response groups per recorded step in rollouts.jsonl
    record_every_steps: int = 1
    tensorboard: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"


@dataclass(frozen=True, kw_only=True, slots=True)
class DebugConfig:
    """Modes to look at one half of the loop."""

    mode: Literal["full", "rollout_only", "train_only"] = (
        "full"  # train_only replays debug.replay_path, no server
    )
    dump_steps: list[int] = field(
        default_factory=list[int]
    )  # steps whose samples go to RUN/dumps/step_NNNNN.pt
    replay_path: str = ""  # a dump, replayed at any layout by train_only


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The whole configuration of a run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    servers: ServersConfig = field(default_factory=ServersConfig)
    reuse: ReuseConfig = field(default_factory=ReuseConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    weight_sync: WeightSyncConfig = field(default_factory=WeightSyncConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    observability: ObservabilityConfig = field(default_factory=ObservabilityConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
