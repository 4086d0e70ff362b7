"""Actor -> servers: the policy's weights, whole, flushed and stamped, or a loud failure.

The trainer meets this room as `interfaces.WeightPublisher`; where the tensors come from is `interfaces.Actor`'s matter,
how a server is started the rollout room's.
"""
