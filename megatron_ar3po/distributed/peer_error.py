"""A failure of another rank; apart from `collectives`, for those who do not want torch yet."""


class PeerError(RuntimeError):
    """Another rank failed; this one stops with it."""
