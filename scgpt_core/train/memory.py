"""How many cells fit into one forward and backward pass."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from scgpt_core.batch import Batch
from scgpt_core.config import ModelConfig, TrainerSettings
from scgpt_core.device import autocast, resolve_precision
from scgpt_core.model import ScGPT
from scgpt_core.train.objectives import Objective
from scgpt_core.train.parallel import World, recompute_layers

_CELLS_ON_CPU = 32
"""Enough to fill the cores, few enough to stay in their caches for a while."""

logger = logging.getLogger(__name__)


def resolve_micro_batch(
    model: ScGPT, objective: Objective, settings: TrainerSettings, world: World
) -> int:
    """Cells of a micro-batch: as set, or 32 on a CPU, or as many as a GPU holds at full length.

    Never more than this process's part of a global batch. On a GPU one step is tried with this
    model, undivided, while the memory of its optimiser state is taken; the model stays as it is.
    """
    part = -(-settings.batch_cells // world.size)
    if settings.micro_batch_cells is not None:
        return min(settings.micro_batch_cells, part)
    if world.device.type == "cpu":
        return min(_CELLS_ON_CPU, part)

    def attempt(n_cells: int) -> None:
        moments = [torch.empty_like(p) for p in model.parameters() for _ in range(2)]
        try:
            batch = _longest_batch(n_cells, model.config).to(world.device)
            with autocast(world.device, resolve_precision(world.device, settings.precision)):
                terms = objective(model, batch, 1.0)
            torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        finally:
            model.zero_grad()
            del moments

    with _as_in_training(model, settings):
        cells = world.agree(halve_until_it_fits(attempt, part))
    logger.info("micro-batches of %d cells (of %d a process and step) fit into memory", cells, part)
    return cells


@contextmanager
def _as_in_training(model: ScGPT, settings: TrainerSettings) -> Iterator[None]:
    """Recompute layers where training will; in the end the model is what it was, statistics too."""
    layers, buffers = list(model.layers), [buffer.clone() for buffer in model.buffers()]
    if settings.activation_checkpointing:
        recompute_layers(model)
    try:
        yield
    finally:
        for i, layer in enumerate(layers):
            model.layers[i] = layer
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)


def halve_until_it_fits(attempt: Callable[[int], None], n_cells: int) -> int:
    """Largest of n, n/2, n/4... that `attempt` does not run out of device memory with.

    Raises
    ------
    ValueError
        Where not even one cell fits.
    """
    while True:
        try:
            attempt(n_cells)
        except torch.OutOfMemoryError as error:
            if n_cells == 1:
                message = (
                    "one cell at full length does not fit into the device's memory: lower "
                    "max_tokens or the model's size, or set trainer.activation_checkpointing"
                )
                raise ValueError(message) from error
            n_cells = -(-n_cells // 2)
        else:
            return n_cells


def _longest_batch(n_cells: int, config: ModelConfig) -> Batch:
    """Cells of the greatest length, every other gene hidden."""
    shape = (n_cells, config.max_tokens)
    hidden_BL = (torch.arange(config.max_tokens) % 2 == 1).expand(shape)
    return Batch(
        ids_BL=torch.full(shape, config.cls_id),
        values_BL=torch.ones(shape),
        padding_BL=torch.zeros(shape, dtype=torch.bool),
        known_BL=~hidden_BL,
        target_BL=torch.ones(shape),
        hidden_BL=hidden_BL,
        batch_B=torch.zeros(n_cells, dtype=torch.int64),
        label_B=torch.zeros(n_cells, dtype=torch.int64),
        modality_BL=torch.zeros(shape, dtype=torch.int64),
        perturbed_BL=torch.zeros(shape, dtype=torch.int64),
    )
