"""Actor -> servers: the policy's weights, whole, flushed and under their version, or a loud failure.

The trainer meets this room as `interfaces.WeightPublisher`; where the tensors come from is `interfaces.Actor`'s matter,
how a server is started that of `servers/`.
"""
