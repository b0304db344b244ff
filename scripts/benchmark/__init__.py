"""The benchmark suite behind scripts/bench: forkd and its peers under the same works."""
