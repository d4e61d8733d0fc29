"""The names of the files that training keeps in a run directory."""

METRICS_FILE = "metrics.jsonl"
EXPERIMENT_FILE = "experiment.json"
WARNINGS_FILE = "warnings.json"
CHECKPOINTS = "checkpoints"  # A folder for each step.
