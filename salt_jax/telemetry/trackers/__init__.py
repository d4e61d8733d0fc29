"""Services that show the metrics of runs, beside TensorBoard."""
