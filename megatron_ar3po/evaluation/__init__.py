"""`ar3po evaluate`: policies on benchmarks. The loop of a run has an evaluator of its own (evaluator.py), with the same
suites."""
