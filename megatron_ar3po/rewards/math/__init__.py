"""The reader and the comparer of mathematics. Free of torch: it runs in the verifier's workers."""
