"""The ports: where rooms meet without knowing each other. `train.py` introduces the concrete parts.

Every method says which ranks call it. "The leader" is the first rank of a replica (tp 0, pp 0, cp 0).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.records import Record
from megatron_ar3po.types import (
    CollectedStep,
    Generation,
    GenerationRequest,
    MiniBatch,
    Prompt,
    Response,
    ResponseGroup,
    RowKey,
    ScoredResponse,
    Scoring,
    ScoringRequest,
    StepPrompt,
    TrainingBatch,
    TrainingSample,
    Verdict,
)
from megatron_ar3po.update_stats import LoanOutcome, UpdateStats

if TYPE_CHECKING:  # slow to import, and the command line reads this page
    from torch import Tensor


class RolloutEngine(Protocol):
    """Samples from the current policy. Leader only."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """One sample. Waits at most the configured time; retries a lost request without ever returning two answers
        for one `request_id`. Raises `RolloutEngineError` with the server's last log lines when it cannot go on."""
        ...

    async def score(self, request: ScoringRequest) -> Scoring:
        """How likely an answer that exists is now: log-probs of its tokens, nothing sampled. Waits, retries and raises
        as `generate` does."""
        ...

    async def abort(self, request_id: str) -> None:
        """Ask the server to stop one request; `generate` then returns with finish_reason 'abort'."""
        ...

    async def num_in_flight_of_others(self) -> int | None:
        """Requests that other clients have at the servers that this one samples from; None where it is alone, or where
        that is not known now."""
        ...

    async def repair_all(self) -> None:
        """After a rollout: servers that died since their last answer serve again when this returns."""
        ...

    async def close(self) -> None:
        """Lets go of the connections; called in the loop that `generate` ran in."""
        ...


class RolloutEngineError(RuntimeError):
    """The engine cannot answer: the message says which server, what it said last, and what to do."""


class SleepingServers(Protocol):
    """The replica's servers, whose memory comes and goes. Leader only. Tags are SGLang's: 'weights', 'kv_cache'."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def at_gates(self) -> Sequence[str]:
        """Those that have started and hold no memory until `admit`."""
        ...

    def hold_back(self, tags: Sequence[str]) -> None:
        """At the start of a run: those that run already are waited for, and `tags` are released. Those of this run
        wait at their gates."""
        ...

    def sleep(self, tags: Sequence[str]) -> None: ...

    def wake(self, tags: Sequence[str]) -> None: ...

    def restart_lost(self) -> Sequence[str]:
        """Fresh processes, behind their gates, for those that died, or hang, since they last answered. Whose."""
        ...

    def admit(self, asleep: Sequence[str]) -> None:
        """Opens the gates; returns when all that waited there are ready, with `asleep` released as the others have
        it. The accelerators are free for them."""
        ...


class Verifier(Protocol):
    """Grades one response. Leader only. Untrusted text never raises: it becomes a verdict with the reward of an
    incorrect response and a status that says why ('no_answer', 'ungradable', ...). Nor does a verifier that fails: its
    verdict is 'error' and has no reward."""

    @property
    def version(self) -> str:
        """Changes whenever the same text could be graded differently; part of a prompt's identity."""
        ...

    async def verify(self, prompt: Prompt, response: Response) -> Verdict: ...

    def close(self) -> None: ...


class GradingRules(Protocol):
    """What of the verifiers decides about prompts when they are loaded. A prompt's `source` chooses its verifier."""

    def version_of(self, source: str) -> str | None:
        """Of the verifier of a source; None where it has none."""
        ...

    def options_of(self, source: str, metadata: Mapping[str, Any]) -> Mapping[str, str]:
        """What of a prompt's own metadata its verdicts hang on."""
        ...

    def why_unusable(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """For each prompt why no response could ever equal its ground truth, or None."""
        ...

    def why_different(self, pairs: Sequence[tuple[Prompt, Prompt]]) -> list[str | None]:
        """For each pair why its verifier calls their ground truths different; None where they are equal."""
        ...


class PromptOrder(Protocol):
    """Which prompts the steps take, in one global order: the same on every leader. Leader only but for `cursor`."""

    def start_step(self) -> None: ...

    def next_batch(self, num_prompts: int) -> Sequence[StepPrompt]:
        """The next prompts of this step; fewer (perhaps none) when the step has drawn every prompt."""
        ...

    @property
    def records(self) -> Mapping[str, Record]:
        """What the choice came to; every replica knows it alike."""
        ...

    @property
    def cursor(self) -> Mapping[str, Any]:
        """Where the next step starts, for JSON. That of rank 0, a leader, goes into checkpoints."""
        ...


class StepSampler(Protocol):
    """Gathers the response groups of one step: a fixed batch, or DAPO's dynamic sampling. Leader only."""

    def collect(self, *, step: int, policy_version: int) -> CollectedStep: ...

    def record_loans(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        """The step's groups after response reuse: which of them were rescued by a stored response."""
        ...

    def learn(self, step: int) -> None:
        """Collective over leaders: what the step has shown of its prompts becomes history."""
        ...


class ResponseScorer(Protocol):
    """How likely answers that exist are to the current policy. Leader only, while its servers are awake."""

    def mean_logprobs(
        self, asked: Sequence[tuple[Prompt, Response]], *, step: int, policy_version: int
    ) -> list[float]:
        """One mean token log-prob (temperature 1) for each; a prompt's response is asked about once in a step."""
        ...


class ReuseShard(Protocol):
    """One data-parallel rank's part of the memory of correct responses. Leader only."""

    def deposit(
        self, responses: Sequence[ScoredResponse], *, prompts: Mapping[str, Prompt], step: int
    ) -> int:
        """A step's fresh correct responses, in one transaction, with the prompts they answer by id. Called in every
        step, with none too. A response id that is there already is no error. Returns how many are new."""
        ...

    def shortlist(self, prompt_id: str, *, step: int, position: int) -> Sequence[ScoredResponse]:
        """Stored answers whose likelihood under the current policy the store wants to know before it lends one."""
        ...

    def borrow(
        self,
        prompt_id: str,
        *,
        step: int,
        position: int,
        mean_logprobs: Mapping[str, float] | None = None,
    ) -> ScoredResponse | None:
        """An earlier step's correct response to this prompt, or None. Counts the loan. `mean_logprobs`: of the
        shortlist, by response id."""
        ...

    def record_outcomes(self, outcomes: Sequence[LoanOutcome], *, step: int) -> None:
        """What became of the step's loans; those of other shards may be among them."""
        ...

    @property
    def records(self) -> Mapping[str, Record]:
        """What was decided in the step that the store stands at, and how much it holds; adds up over shards."""
        ...

    @property
    def cursor(self) -> Mapping[str, Any]:
        """Where the store stands, for JSON, one meaning on every shard; `rollback(cursor)` brings it back there."""
        ...

    def rollback(self, cursor: Mapping[str, Any]) -> None: ...

    def commit_checkpoint(self, cursor: Mapping[str, Any]) -> None:
        """No resume will go back before `cursor`: what is kept for undoing may go."""
        ...

    def close(self) -> None: ...


class Replay(Protocol):
    """Rows of earlier steps that train again. Leader only."""

    def draw(
        self, samples: Sequence[TrainingSample], groups: Sequence[ResponseGroup], *, step: int
    ) -> Sequence[TrainingSample]:
        """Collective over leaders. `samples`, made of `groups`: what trains in the step, of this replica. Returns the
        rows of earlier steps that train beside them here, and keeps the fresh ones of `samples` for later steps."""
        ...

    @property
    def records(self) -> Mapping[str, Record]:
        """Of the last draw; adds up over replicas."""
        ...

    def sync(self) -> None:
        """Before a checkpoint: what was kept is on the disk when this returns."""
        ...

    def forget_before(self, step: int) -> None:
        """No resume will go back before the end of `step`."""
        ...


class Actor(Protocol):
    """The Megatron side. Every method is collective over all ranks unless it says otherwise."""

    def compute_logprobs(self, batch: TrainingBatch) -> TrainingBatch:
        """Forward only, with the weights as they are now; returns the batch with `old_logprobs` filled on the last
        pipeline stage where they come from a pass (`TrainingBatch.needs_pass`), and `reference_logprobs` of all of it
        where there is a KL term. Computes nothing where neither is asked for."""
        ...

    def reference_kl(self, batch: TrainingBatch) -> Mapping[RowKey, float]:
        """Of every response of the step, summed over its tokens, at the start of the step. The same on every rank.
        `batch` comes from `compute_logprobs`, and all of it from a pass."""
        ...

    def refresh_reference(self) -> None:
        """The policy as it is now becomes the one that the KL term holds it to. No effect without a KL term."""
        ...

    def update(self, mini_batch: MiniBatch, *, entropy_coef: float | None = None) -> UpdateStats:
        """Forward, backward, one optimizer step. Same stats on every rank. `entropy_coef`: of the bonus in this
        update, where it is not the config's."""
        ...

    def hf_buckets(
        self, max_bytes: int, *, on_every_rank: bool = False
    ) -> Iterator[Sequence[tuple[str, Tensor]]]:
        """The policy's weights under Hugging Face names, bucket by bucket. Collective over the replica; the tensors
        are whole on the replica's leader, or on each of its ranks; elsewhere the sequence is empty. A bucket's tensors
        stay valid until the next one is asked for. Never holds more than about two buckets beside the model."""
        ...

    def save(self, folder: Path) -> PendingSave:
        """Model and optimizer, as they are now, as a distributed checkpoint under `folder` (exists, empty). Training
        may go on at once; `folder` holds a checkpoint when `PendingSave.finish` has returned. One at a time."""
        ...

    def load(self, folder: Path) -> None:
        """From any layout (other TP, PP, DP)."""
        ...

    def export_hf(self, folder: Path) -> None:
        """The policy as a Hugging Face folder, whole or not at all."""
        ...

    @property
    def held(self) -> Collection[str]:
        """What of it lies on the accelerator: 'weights', 'gradients', 'optimizer'."""
        ...

    def offload(self, *, keep_weights: bool = False) -> None:
        """Gradients and optimizer state leave the accelerator, and so do the weights or they come back to it
        (`keep_weights`: what a publish needs). Gradients are freed, not kept. No collective."""
        ...

    def onload(self, *, gradients: bool = True) -> None:
        """Weights and optimizer state are on the accelerator; the gradients as zeros, or not at all, as for a save.
        No collective."""
        ...


class PendingSave(Protocol):
    """A checkpoint on its way to the disk."""

    def is_written(self) -> bool:
        """Whether this rank's files are written, or could not be. No collective; never waits."""
        ...

    def finish(self) -> Mapping[str, FileDigest]:
        """Collective over all ranks, each of which has written. All raise if one could not. What this rank's files
        hold, summed up while they were written, by their path under the folder."""
        ...


class WeightPublisher(Protocol):
    """Actor -> servers."""

    def publish(self, policy_version: int) -> Mapping[str, Record]:
        """Collective over all ranks. When it returns, every server of every replica holds exactly the actor's weights,
        has dropped every cache made with older ones, and states `policy_version` in its responses. Raises
        `WeightPublishError` otherwise: the run never samples from unknown weights. Returns metrics
        (`weight_sync/bytes`, `weight_sync/num_buckets`, seconds), the same on every rank."""
        ...

    def forget(self, url: str) -> None:
        """Leader only: another process answers at `url` now, which knows nothing of what was published before."""
        ...


class MetricSink(Protocol):
    """A place that shows the rows of metrics.jsonl too. One thread makes, feeds and closes it. Whatever it raises is
    said in the log and ends no run."""

    @property
    def run_id(self) -> str:
        """What a resume is given again, so that its rows go on where these end."""
        ...

    def write(self, step: int, row: Mapping[str, float]) -> None: ...

    def close(self, *, is_done: bool) -> None:
        """`is_done`: the run has come to its last step, and was not stopped before it."""
        ...


class WeightPublishError(RuntimeError):
    """A server did not take the weights: the message names the server, the tensor or version, and what to do."""
