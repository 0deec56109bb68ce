"""How well unknown genes are predicted: of a model and of the simple predictors beside it.

All are scored on the same cells, the same known/unknown split and the same bins, by the mean
squared error over unknown positions: the loss without its noise.

Shapes: B cells, L gene tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from scgpt_core.batch import Batch
from scgpt_core.train.objectives import Pretraining, is_gene
from scgpt_core.train.parallel import World

Predict = Callable[[Batch], Mapping[str, tuple[Tensor, Tensor]]]
"""Predictions by name, each (bins_BL float, where_BL bool): what, and where it counts."""


def generation_errors(
    predict: Predict,
    batches: Sequence[Batch],
    shares: Sequence[float],
    *,
    world: World | None = None,
) -> dict[str, float]:
    """Mean squared errors by the prediction's name, and by name and share of unknown genes.

    Parameters
    ----------
    predict
        What is scored.
    batches
        With `target_BL` and `hidden_BL`.
    shares
        Shares of unknown genes that were drawn from: keys as "gep@0.25".
    world
        Processes that share the work, each with all `batches`; None: this one does it all.
    """
    rank, size = (0, 1) if world is None else (world.rank, world.size)
    shares_S = torch.tensor(sorted(shares))
    squares: dict[str, Tensor] = defaultdict(lambda: torch.zeros(len(shares), dtype=torch.float64))
    numbers: dict[str, Tensor] = defaultdict(lambda: torch.zeros(len(shares), dtype=torch.float64))
    for number in range(rank, -(-len(batches) // size) * size, size):
        # What fills up the last round counts for nothing: a sharded model runs in all or in none.
        counts, batch = number < len(batches), batches[number % len(batches)]
        assert batch.target_BL is not None
        share_B = _nearest(batch, shares_S)
        for name, (bins_BL, scored_BL) in predict(batch).items():
            where_BL = scored_BL & counts
            error_BL = (bins_BL.cpu().double() - batch.target_BL) ** 2
            squares[name].index_add_(0, share_B, torch.where(where_BL, error_BL, 0.0).sum(1))
            numbers[name].index_add_(0, share_B, where_BL.sum(1).double())
    if world is not None:
        for sums in (*squares.values(), *numbers.values()):
            sums.copy_(torch.tensor(world.sum(sums.tolist()), dtype=torch.float64))
    errors = {name: (squares[name].sum() / numbers[name].sum()).item() for name in squares}
    for name in squares:
        by_share = (squares[name] / numbers[name]).tolist()
        errors |= {f"{name}@{s:g}": e for s, e in zip(sorted(shares), by_share, strict=True)}
    return errors


def model_predictor(model: nn.Module, objective: Pretraining, device: torch.device) -> Predict:
    """Predictions `gep`, `gepc` and `gep_prompt` of a model in evaluation mode."""

    def predict(batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        output, prompted = objective.predict(model, batch.to(device), prompt=True)
        assert batch.hidden_BL is not None
        assert output.gep_BL is not None
        assert prompted is not None
        assert prompted.gep_BL is not None
        found = {
            "gep": (output.gep_BL, batch.hidden_BL),
            "gep_prompt": (prompted.gep_BL, is_gene(batch)),
        }
        if output.gepc_BL is not None:
            found["gepc"] = (output.gepc_BL, batch.hidden_BL)
        return found

    return predict


def _nearest(batch: Batch, shares_S: Tensor) -> Tensor:
    """int64 (B,), which of the shares was drawn for each cell: hidden genes are rounded down."""
    assert batch.hidden_BL is not None
    share_B = batch.hidden_BL.sum(1) / is_gene(batch).sum(1).clamp(min=1)
    return (share_B[:, None] - shares_S).abs().argmin(1)
