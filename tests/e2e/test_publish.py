"""Weights arrive whole: after a publish the server's log-probs of its own samples are the actor's.

Before each publish every weight of the server is poisoned, so that a tensor which is not sent cannot go unnoticed by
having been right before; and the check itself is checked, by leaving out each tensor in turn."""

from __future__ import annotations

import itertools
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.distributed as dist

from megatron_ar3po.config.load import load_config
from megatron_ar3po.data.batch_builder import pack
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.sglang_client import SglangEngine
from megatron_ar3po.rollout.sglang_server import ServerPlace, SglangServer
from megatron_ar3po.types import MiniBatch, Prompt, TrainingBatch, TrainingSample, Verdict


class NoVerdict:
    version = "none"

    async def verify(self, prompt, response):
        return Verdict(reward=0.0, status="incorrect")

    def close(self):
        pass


class Poison:
    """Sends other weights than the actor's: random ones for everything, or all but one tensor."""

    def __init__(self, actor, change):
        self._actor, self._change = actor, change

    def hf_buckets(self, max_bytes):
        for bucket in self._actor.hf_buckets(max_bytes):
            yield [kept for named in bucket if (kept := self._change(*named)) is not None]


class Stage:
    """One real server, one real actor, and the publisher between them."""

    def __init__(self, stack: ExitStack, model: str, folder) -> None:
        config = load_config(
            [],
            [
                f"model.path={model}",
                "rollout.max_response_tokens=6",
                "weight_sync.bucket_bytes=200000",
            ],
        )
        server = SglangServer(
            config.rollout,
            ServerPlace(name="publish"),
            model_path=model,
            dtype="float32",
            log_dir=folder,
        )
        server.start()
        stack.callback(server.stop)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        stack.callback(dist.destroy_process_group)
        from megatron_ar3po.actor.megatron_actor import MegatronActor

        self.config, self.server = config, server
        self.ranks = Ranks(ParallelLayout(), timeout_s=60)
        self.actor = MegatronActor(config, self.ranks.layout)
        server.wait_ready()
        self.controller = RolloutController(
            SglangEngine([server], config.rollout, vocab_size=20),
            NoVerdict(),
            config.rollout,
            run_seed=0,
            stop_token_ids=(1,),
            max_context_tokens=64,
            vocab_size=20,
        )
        stack.callback(self.controller.close)
        self.versions = itertools.count(1)

    def publish(self, source) -> int:
        from megatron_ar3po.weight_sync.publisher import ColocatedPublisher

        version = next(self.versions)
        publisher = ColocatedPublisher(
            actor=source,
            ranks=self.ranks,
            servers=lambda: [self.server.url],
            config=self.config.weight_sync,
        )
        facts = publisher.publish(version)
        assert facts["weight_sync/num_buckets"] > 1
        return version

    def poison(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.publish(
            Poison(
                self.actor,
                lambda name, t: (name, torch.randn(t.shape, generator=generator).to(t.dtype)),
            )
        )

    def largest_difference(self, policy_version: int) -> float:
        """max |server log-prob - actor log-prob| over the tokens of 32 responses the server samples now."""
        prompts = [
            Prompt(prompt_id=f"{n:032x}", token_ids=tuple(int(d) for d in row), ground_truth="0")
            for n, row in enumerate(np.random.default_rng(3).integers(2, 20, (8, 8)))
        ]
        answers = self.controller.sample(
            prompts,
            num_samples=4,
            sampling=self.controller.sampling,
            seed_key="publish",
            policy_version=policy_version,
        )
        samples = [
            TrainingSample(
                group_position=p,
                prompt_id=prompt.prompt_id,
                response_id=scored.response.response_id,
                prompt_token_ids=prompt.token_ids,
                response_token_ids=scored.response.token_ids,
                behaviour_logprobs=scored.response.logprobs,
                advantage=1.0,
                reward=0.0,
                origin="fresh",
                policy_version=policy_version,
            )
            for p, (prompt, group) in enumerate(zip(prompts, answers, strict=True))
            for scored in group
        ]
        mini = MiniBatch(
            micro_batches=(pack(samples, [1.0] * len(samples)),), num_units=1, num_sequences=1
        )
        batch = TrainingBatch(mini_batches=(mini,), num_samples=len(samples), num_tokens=0)
        (micro_batch,) = self.actor.compute_logprobs(batch).micro_batches
        assert micro_batch.old_logprobs is not None
        difference = (micro_batch.old_logprobs - micro_batch.behaviour_logprobs).abs()
        return float((difference * micro_batch.loss_mask).max())


@pytest.fixture(scope="module")
def stage(tiny_task, tmp_path_factory):
    with ExitStack() as stack:
        yield Stage(stack, str(tiny_task / "model"), tmp_path_factory.mktemp("publish"))


def test_a_poisoned_server_agrees_with_the_actor_after_a_publish(stage):
    stage.poison()
    assert stage.largest_difference(stage.publish(stage.actor)) <= 1e-4


def test_poison_alone_is_seen(stage):
    stage.poison()
    version = next(stage.versions) - 1
    assert stage.largest_difference(version) > 1.0


def test_each_single_tensor_that_is_not_sent_is_seen(stage):
    names = [name for bucket in stage.actor.hf_buckets(1 << 30) for name, _ in bucket]
    assert len(names) == 26  # 2 layers of 12, the tied embedding, the last norm
    for left_out in names:
        stage.poison()
        version = stage.publish(
            Poison(
                stage.actor,
                lambda name, t, left_out=left_out: (name, t) if name != left_out else None,
            )
        )
        assert stage.largest_difference(version) > 1e-4, f"{left_out} was not sent and nobody saw"


def test_agreement_holds_after_the_policy_has_moved(stage):
    """The weights of the actor, not those of the checkpoint both have started from."""
    with torch.no_grad():
        for parameter in stage.actor.policy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    stage.poison()
    assert stage.largest_difference(stage.publish(stage.actor)) <= 1e-4
