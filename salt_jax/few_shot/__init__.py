"""Few-shot evaluation of exports with lm-evaluation-harness."""
