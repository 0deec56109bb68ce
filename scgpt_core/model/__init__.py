"""The model: one class, `ScGPT`, whose variants are the fields of `ModelConfig`."""

from scgpt_core.config import ModelConfig
from scgpt_core.model.scgpt import ScGPT

__all__ = ["ModelConfig", "ScGPT"]
