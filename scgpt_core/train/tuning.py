"""Which weights a fine-tuning trains: all, all but the Transformer's layers, or low-rank changes.

LoRA (Hu et al. 2022) is written as parametrizations of the layers' matrices, which `merge` turns
into plain weights again: model folders do not tell how they were fine-tuned, and need no package.
"""

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scgpt_core.config import FineTuningTrainer
from scgpt_core.model import ScGPT

_BYTES_A_WEIGHT = 12  # of its gradient and the two moments of AdamW, in float32

logger = logging.getLogger(__name__)


class LowRank(nn.Module):
    """A matrix and a trained change of low rank: W + scale B A, with B = 0 at the start.

    Parameters
    ----------
    weight
        W, of shape (out, in).
    rank
        Of the change.
    scale
        What B A is multiplied by.
    generator
        A starts from.
    """

    def __init__(
        self, weight: Tensor, *, rank: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        bound = math.sqrt(3 / n_in)
        a_RI = (2 * torch.rand(rank, n_in, generator=generator) - 1) * bound
        self.down = nn.Parameter(a_RI.to(weight))
        self.up = nn.Parameter(weight.new_zeros(n_out, rank))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed matrix (out, in)."""
        return weight + self.scale * (self.up @ self.down)


def restrict(model: ScGPT, settings: FineTuningTrainer, *, seed: int) -> dict[str, Any]:
    """Let a model train what the settings say; returns how many weights that are, for `run.json`.

    Parameters
    ----------
    model
        Changed in place; `merge` changes it back.
    settings
        `tune`, `lora_rank` and `lora_alpha` are read.
    seed
        Of the low-rank matrices.
    """
    n_weights = sum(p.numel() for p in model.parameters())
    if settings.tune != "all":
        model.layers.requires_grad_(requires_grad=False)
    if settings.tune == "lora":
        generator = torch.Generator().manual_seed(seed)
        scale = settings.lora_alpha / settings.lora_rank
        for linear in _linears(model):
            change = LowRank(
                linear.weight, rank=settings.lora_rank, scale=scale, generator=generator
            )
            parametrize.register_parametrization(linear, "weight", change)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info("%s: %d of %d weights are trained", settings.tune, n_trained, n_weights)
    return {
        "tune": settings.tune,
        "weights": n_weights,
        "trained_weights": n_trained,
        "gradient_and_moments_mb": round(n_trained * _BYTES_A_WEIGHT / 1e6, 3),
    }


def merge(model: ScGPT) -> None:
    """Make a restricted model plain: low-rank changes go into the matrices, all may be trained."""
    for linear in _linears(model):
        if parametrize.is_parametrized(linear, "weight"):
            parametrize.remove_parametrizations(linear, "weight")
    model.requires_grad_(requires_grad=True)


def _linears(model: ScGPT) -> list[nn.Linear]:
    return [module for module in model.layers.modules() if isinstance(module, nn.Linear)]
