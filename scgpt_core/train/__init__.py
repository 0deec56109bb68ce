"""Training: losses, objectives, parallelism and the loop."""
