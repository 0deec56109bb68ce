"""Tasks: what a model is used for, each beside its simple baselines."""
