"""What a run imports, imported once: the runs of an experiment are forked from a process that has imported this module
(`process`). Nothing here may start a thread or touch a random state: each fork would inherit it."""

from __future__ import annotations

from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

ensure_torchvision_schemas()

import transformers  # noqa: E402

import megatron_ar3po.actor.megatron_actor
import megatron_ar3po.weight_sync.publisher
import megatron_ar3po.weight_sync.tensor_transport
import megatron_ar3po.wiring.run  # noqa: F401

# transformers imports its parts when a name is first looked up
_LAZY = (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast)
