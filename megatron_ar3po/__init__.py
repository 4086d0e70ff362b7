"""Reinforcement learning with verifiable rewards by AR3PO: adaptive rollout and response reuse (arXiv:2509.25808)."""

__version__ = "0.2.0.dev0"
