"""AdamW, the course of its learning rate, and gradient clipping."""

import math

from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor

from scgpt_core.config import TrainerSettings


def build_optimizer(model: nn.Module, settings: TrainerSettings) -> optim.AdamW:
    """AdamW over what is to be trained; biases and norms, which are vectors, do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def learning_rate(
    step: int, settings: TrainerSettings, *, steps: int, steps_per_epoch: int
) -> float:
    """Learning rate of a step (the first is 0) of a run of `steps`."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "exponential":
        return peak * settings.decay ** (step // steps_per_epoch)
    done = (step - warmup) / (steps - warmup)
    return peak * (1 + math.cos(math.pi * done)) / 2


def clip_gradients(model: nn.Module, greatest: float | None) -> Tensor:
    """Scale gradients to a norm of at most `greatest`; returns the norm that they had, a scalar."""
    bound = math.inf if greatest is None else greatest
    norm = nn.utils.clip_grad_norm_(model.parameters(), bound)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
