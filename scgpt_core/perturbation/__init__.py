"""Perturbation prediction: data, splits, model, simple baselines, metrics, and the reverse."""
