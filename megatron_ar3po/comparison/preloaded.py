"""What a run imports, imported once: the runs of an experiment are forked from a process that has imported this module
(`process`). Nothing here may start a thread or touch a random state: each fork would inherit it."""

from __future__ import annotations

import importlib

import megatron_ar3po.actor.megatron_actor
import megatron_ar3po.weight_sync.publisher
import megatron_ar3po.weight_sync.tensor_transport
import megatron_ar3po.wiring.run  # noqa: F401
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

ensure_torchvision_schemas()  # before transformers

# transformers imports its parts when a name is first looked up, and that is most of its time.
for name in ("AutoTokenizer", "PreTrainedTokenizerFast"):
    getattr(importlib.import_module("transformers"), name)
