"""Generating cells with a model, batch by batch: K rounds, prompted by genes or by an embedding.

Values are bins, as the model knows them.

Shapes: B cells in a batch, L gene tokens, N cells, T tokens of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import GenerationSettings
from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import TokenSettings, to_batch
from scgpt_core.model import ScGPT
from scgpt_core.tasks.profiles import Bins, Mask
from scgpt_core.train.objectives import Pretraining, is_gene

Prompt = Literal["genes", "cell"]
"""What the model is given: some of the cell's genes, or its embedding."""


@torch.inference_mode()
def generate(
    model: ScGPT, batch: Batch, *, rounds: int = 1, prompt_BD: Tensor | None = None
) -> Tensor:
    """Generate the bins of unknown genes: float32 (B, L), as given where they are known.

    Each round predicts all genes that are still unknown, and takes those that it is surest of for
    known in the next. The paper leaves open what that is for a regression: here a prediction is the
    surer the nearer the two heads are to each other, GEP, which reads the known genes, and GEPC,
    which reads the cell embedding.

    Parameters
    ----------
    model
        In evaluation mode, on the device of `batch`.
    batch
        `hidden_BL` says what to generate, `known_BL` what is known (``<cls>`` too).
    rounds
        K: each makes 1/K of the unknown genes known.
    prompt_BD
        Cell embeddings, not normalised, in the place of ``<cls>``: cell-prompted generation.

    Raises
    ------
    ValueError
        Where several rounds are asked of a model without GEPC.
    """
    if rounds > 1 and model.gepc_head is None:
        message = f"{rounds} rounds need a model with GEPC, to tell sure predictions: ask for 1"
        raise ValueError(message)
    assert batch.hidden_BL is not None
    assert batch.known_BL is not None
    greatest = model.config.n_bins - 1
    for left in range(rounds, 0, -1):
        output = model(
            batch, heads={"gep"} if rounds == 1 else {"gep", "gepc"}, prompt_BD=prompt_BD
        )
        assert output.gep_BL is not None
        predicted_BL = output.gep_BL.float().clamp(1, greatest)
        taken_BL = batch.hidden_BL
        if left > 1:
            assert output.gepc_BL is not None
            doubt_BL = (output.gep_BL - output.gepc_BL).abs().float()
            doubt_BL = doubt_BL.masked_fill(~batch.hidden_BL, torch.inf)
            n_taken_B = -(-batch.hidden_BL.sum(1) // left)
            rank_BL = doubt_BL.argsort(dim=1, stable=True).argsort(1)
            taken_BL = batch.hidden_BL & (rank_BL < n_taken_B[:, None])
        batch = batch._replace(
            values_BL=torch.where(taken_BL, predicted_BL, batch.values_BL),
            known_BL=batch.known_BL | taken_BL,
            hidden_BL=batch.hidden_BL & ~taken_BL,
        )
    return batch.values_BL


class Made(NamedTuple):
    """Cells and what was generated of them, N x T."""

    true_NT: Bins
    scored_NT: Mask
    """Genes of the cell whose values the prompt does not give."""
    generated: dict[str, Bins]
    """By the predictor's name."""


def generate_all(
    cells: Cells, ckpt: Checkpoint, prompt: Prompt, settings: GenerationSettings, seed: int
) -> Made:
    """Generate every cell, with each number of rounds."""
    n_tokens, device = ckpt.vocab.n_tokens, next(ckpt.model.parameters()).device
    true: list[Bins] = []
    scored: list[Mask] = []
    made: dict[str, list[Bins]] = {_title(rounds): [] for rounds in settings.rounds}
    shares = (1 - settings.known_share,)
    for batch in _batches(cells, ckpt, settings, seed, unknown_shares=shares):
        assert batch.target_BL is not None
        asked, prompt_BD = batch, None
        if prompt == "cell":
            asked, prompt_BD = _cell_prompted(batch.to(device), ckpt)
        assert asked.hidden_BL is not None
        true.append(_spread(batch.target_BL, batch, n_tokens))
        scored.append(_spread(asked.hidden_BL.float(), batch, n_tokens) > 0)
        for rounds in settings.rounds:
            made_BL = generate(ckpt.model, asked.to(device), rounds=rounds, prompt_BD=prompt_BD)
            made[_title(rounds)].append(_spread(made_BL, batch, n_tokens))
    generated = {name: np.concatenate(parts) for name, parts in made.items()}
    return Made(np.concatenate(true), np.concatenate(scored), generated)


@torch.inference_mode()
def _cell_prompted(batch: Batch, ckpt: Checkpoint) -> tuple[Batch, Tensor]:
    """Give the batch with every gene unknown, and the embeddings of its whole cells."""
    assert batch.target_BL is not None
    whole_cells = batch._replace(values_BL=batch.target_BL, known_BL=None, hidden_BL=None)
    objective = Pretraining(cell_prompt_after=0, unknown_value=ckpt.config.mask_value)
    output = ckpt.model(whole_cells, heads=())
    return objective.cell_prompted(batch), output.cell_BD


def _title(rounds: int) -> str:
    return "scGPT" if rounds == 1 else f"scGPT, {rounds} rounds"


def _batches(
    cells: Cells,
    ckpt: Checkpoint,
    settings: GenerationSettings,
    seed: int,
    *,
    unknown_shares: Sequence[float] = (),
) -> Iterator[Batch]:
    """Yield mini-batches of the cells, in their order."""
    tokens = TokenSettings.of_model(
        ckpt.config, max_tokens=settings.max_tokens, unknown_shares=tuple(unknown_shares)
    )
    rows = np.arange(len(cells.cell_ids))
    for first in range(0, len(rows), settings.batch_size):
        yield to_batch(cells, tokens, seed=seed, rows=rows[first : first + settings.batch_size])


def true_bins(
    cells: Cells,
    ckpt: Checkpoint,
    settings: GenerationSettings,
    seed: int,
    *,
    whole: bool = False,
) -> Bins:
    """Bins of the cells' genes, N x T; of at most `max_tokens` of them where not `whole`."""
    if whole:
        longest = int(np.diff(cells.indptr).max()) + 1
        settings = settings.model_copy(update={"max_tokens": longest})
    return np.concatenate(
        [
            _spread(batch.values_BL, batch, ckpt.vocab.n_tokens)
            for batch in _batches(cells, ckpt, settings, seed)
        ]
    )


def _spread(values_BL: Tensor, batch: Batch, n_tokens: int) -> Bins:
    """Values of genes in the columns of their tokens, 0 elsewhere."""
    wide_BT = np.zeros((len(values_BL), n_tokens), np.float32)
    row, at = is_gene(batch).nonzero(as_tuple=True)
    wide_BT[row, batch.ids_BL[row, at]] = values_BL[row, at].cpu()
    return wide_BT
