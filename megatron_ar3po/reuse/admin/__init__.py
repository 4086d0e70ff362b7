"""What `ar3po reuse` does with stores that nobody trains with; no run imports it."""
