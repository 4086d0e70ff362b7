"""The settings that decide verdicts: what the reuse store notes in its header and holds against those of a run.

They are the options of section `rewards` that a resume may not change (config/at_resume.py), so both have one list.
Which answers are equal is the verifier's version, and part of every prompt's id (`verifier_version`).
"""

from __future__ import annotations

import json

from megatron_ar3po.config.at_resume import AtResume, read_declarations
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.schema import Config


def verdict_settings(config: Config) -> dict[str, str]:
    """By dotted name, each value as it stands in a YAML file.

    >>> verdict_settings(Config())["rewards.correct"]
    '1.0'
    """
    declared = read_declarations(RewardsConfig)
    values = {
        f"rewards.{name}": getattr(config.rewards, name)
        for name, at_resume in declared.items()
        if at_resume is AtResume.FIXED
    }
    sources = map(config.rewards.for_source, config.rewards.by_source or [""])
    if any(own is not None and own.overlong_penalty_tokens for own in sources):
        values["rollout.max_response_tokens"] = config.rollout.max_response_tokens
    return {
        n: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for n, v in values.items()
    }
