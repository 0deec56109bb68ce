"""Generation: profiles of cells from some of their genes, or from their embedding alone.

Values are bins, as the model knows them. Generated profiles are compared with the true ones of
cells that no predictor has seen, beside the mean and a random real cell of their type.

Shapes: B cells in a batch, L gene tokens, N cells of a data set, T tokens of the vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.cells import Cells, cells_from_csr, take_cells
from scgpt_core.data.collate import TokenSettings, to_batch
from scgpt_core.data.genes import match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.keys import LABEL, UNKNOWN
from scgpt_core.model import ScGPT
from scgpt_core.train.objectives import Pretraining, is_gene

_BATCH_CELLS = 16


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


def assess_generation(
    adata: ad.AnnData,
    ckpt: Checkpoint,
    *,
    known_share: float = 0.5,
    rounds: Sequence[int] = (1, 5),
    max_tokens: int = 1200,
    max_cells: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare generated profiles with true ones, and with what simple predictors say.

    Half of the cells of each type are a reference for the simple predictors; profiles of the other
    half are generated from a share of their genes ("genes") and from their embedding ("cell").

    Parameters
    ----------
    adata
        Raw counts, with types in ``obs["label"]`` (`prepare_dataset`).
    known_share
        Share of a cell's genes that the gene prompt gives.
    rounds
        Numbers of rounds to try with the gene prompt.
    max_cells
        Cells to generate, at most.

    Returns
    -------
    Tidy: prompt, predictor, metric, value. Metrics, over generated values: "cell_correlation",
    Pearson's r of a cell's values with the true ones, mean over cells; "gene_error", root mean
    squared error of a gene in bins, mean over genes; "mixing", how much generated cells stand among
    real ones of their type: share of real cells among their neighbours, over that of a perfect mix.

    Raises
    ------
    ValueError
        Where no type has two cells.
    """
    cells, type_N = _labelled_cells(adata, ckpt)
    reference, test = _halves(cells.cell_ids, type_N, seed)
    test = test[:max_cells]
    reference_NT = _true_bins(take_cells(cells, reference), ckpt, seed)
    simple = {
        "mean of the type": _type_means(reference_NT, type_N[reference], type_N[test]),
        "real cell of the type": _random_cells(reference_NT, type_N[reference], type_N[test], seed),
    }
    rows = []
    for prompt, tries in (("genes", rounds), ("cell", (1,))):
        profiles = _generate_all(
            take_cells(cells, test), ckpt, prompt, tries, max_tokens, 1 - known_share, seed
        )
        for predictor, guess_NT in {**profiles.generated, **simple}.items():
            # What the prompt gives is known to every predictor.
            guess_NT = np.where(profiles.scored_NT, guess_NT, profiles.true_NT)
            metrics = {
                "cell_correlation": cell_correlation(guess_NT, profiles),
                "gene_error": gene_error(guess_NT, profiles),
                "mixing": mixing(guess_NT, profiles.true_NT, type_N[test]),
            }
            rows += [(prompt, predictor, name, value) for name, value in metrics.items()]
    return pd.DataFrame(rows, columns=["prompt", "predictor", "metric", "value"])


class Profiles(NamedTuple):
    """Profiles of cells, N x T."""

    true_NT: NDArray[np.float32]
    """True bins; NaN where the cell has no such gene."""
    scored_NT: NDArray[np.bool_]
    """Where the prompt does not give the value."""
    generated: dict[str, NDArray[np.float32]]
    """Bins by the name of what made them."""


def cell_correlation(guess_NT: NDArray[np.float32], profiles: Profiles) -> float:
    """Mean over cells of Pearson's r with the true values, where they were generated."""
    found = []
    for guess_T, true_T, scored_T in zip(
        guess_NT, profiles.true_NT, profiles.scored_NT, strict=True
    ):
        guess, true = guess_T[scored_T], true_T[scored_T]
        if len(guess) > 1 and guess.std() > 0 and true.std() > 0:
            found.append(np.corrcoef(guess, true)[0, 1])
    return float(np.mean(found))


def gene_error(guess_NT: NDArray[np.float32], profiles: Profiles) -> float:
    """Mean over genes of the root mean squared error, in bins, where values were generated."""
    square_NT = np.where(profiles.scored_NT, (guess_NT - profiles.true_NT) ** 2, 0)
    n_T = profiles.scored_NT.sum(0)
    return float(np.sqrt(square_NT.sum(0)[n_T > 0] / n_T[n_T > 0]).mean())


def mixing(
    guess_NT: NDArray[np.float32],
    true_NT: NDArray[np.float32],
    type_N: NDArray[np.int64],
    n_neighbours: int = 10,
) -> float:
    """How much generated cells stand among the real ones of their type; 1: not to be told apart.

    Of each generated cell's neighbours in the principal components of both kinds, the share that is
    real, over the share of real cells among all others; mean over cells of types of 10 or more.
    """
    found = []
    for code in np.unique(type_N):
        real, made = (np.nan_to_num(x_NT[type_N == code]) for x_NT in (true_NT, guess_NT))
        n = len(real)
        if n < n_neighbours:
            continue
        both = np.concatenate([real, made])
        left, scale, _ = np.linalg.svd(both - both.mean(0), full_matrices=False)
        place = left[:, :20] * scale[:20]
        distance = ((place[n:, None] - place[None]) ** 2).sum(2)
        distance[np.arange(n), n + np.arange(n)] = np.inf  # of a cell to itself
        nearest = np.argpartition(distance, n_neighbours, axis=1)[:, :n_neighbours]
        found += list((nearest < n).mean(1) / (n / (2 * n - 1)))
    return float(np.mean(found)) if found else float("nan")


# ------------------------------------------------------------------------------------------- cells


def _labelled_cells(adata: ad.AnnData, ckpt: Checkpoint) -> tuple[Cells, NDArray[np.int64]]:
    """Cells that have a type, by token, and the code of their type."""
    adata = adata[adata.obs[LABEL] != UNKNOWN]
    counts = csr_matrix(adata.X)
    match = match_var(adata.var, ckpt.vocab)
    cells = cells_from_csr(
        counts.indptr,
        counts.indices,
        counts.data,
        token_ids=match.ids,
        cell_ids=cell_identity(adata.obs_names.to_numpy()),
    )
    codes = adata.obs[LABEL].astype("category").cat.codes
    return cells, codes.to_numpy().astype(np.int64)


def _halves(
    cell_ids: NDArray[np.int64], type_N: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a reference and of a test half of every type, in an order that says nothing."""
    order = np.argsort(draw_keys(seed, 0, cell_ids), kind="stable")
    place_N = np.empty(len(order), np.int64)  # of a cell among those of its type
    for code in np.unique(type_N):
        rows = order[type_N[order] == code]
        place_N[rows] = np.arange(len(rows))
    reference, test = (order[place_N[order] % 2 == half] for half in (0, 1))
    if len(test) == 0:
        message = "no type has two cells: generation is judged beside cells of the same type"
        raise ValueError(message)
    return reference, test


def _token_settings(ckpt: Checkpoint, max_tokens: int, unknown_share: float) -> TokenSettings:
    config = ckpt.config
    return TokenSettings(
        max_tokens=max_tokens,
        n_bins=config.n_bins,
        pad_id=config.pad_id,
        cls_id=config.cls_id,
        pad_value=config.pad_value,
        mask_value=config.mask_value,
        cls_value=config.pad_value,
        unknown_shares=(unknown_share,),
    )


def _batches(cells: Cells, tokens: TokenSettings, seed: int) -> Iterator[Batch]:
    for first in range(0, len(cells.cell_ids), _BATCH_CELLS):
        rows = np.arange(first, min(first + _BATCH_CELLS, len(cells.cell_ids)))
        yield to_batch(cells, tokens, seed=seed, rows=rows)


def _spread(values_BL: Tensor, batch: Batch, n_tokens: int) -> NDArray[np.float32]:
    """Values of genes in the columns of their tokens, NaN elsewhere."""
    wide_BT = np.full((len(values_BL), n_tokens), np.nan, np.float32)
    row, at = is_gene(batch).nonzero(as_tuple=True)
    wide_BT[row, batch.ids_BL[row, at]] = values_BL[row, at].cpu()
    return wide_BT


# -------------------------------------------------------------------------------------- predictors


def _generate_all(
    cells: Cells,
    ckpt: Checkpoint,
    prompt: str,
    rounds: Sequence[int],
    max_tokens: int,
    unknown_share: float,
    seed: int,
) -> Profiles:
    """Generate every cell, for each number of rounds."""
    model, n_tokens = ckpt.model.eval(), ckpt.vocab.n_tokens
    device = next(model.parameters()).device
    objective = Pretraining(cell_prompt_after=0, unknown_value=ckpt.config.mask_value)
    parts: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    scored = []
    for batch in _batches(cells, _token_settings(ckpt, max_tokens, unknown_share), seed):
        assert batch.target_BL is not None
        prompt_BD = None
        parts["true"].append(_spread(batch.target_BL, batch, n_tokens))
        if prompt == "cell":
            seen = batch._replace(values_BL=batch.target_BL, known_BL=None, hidden_BL=None)
            with torch.inference_mode():
                prompt_BD = model(seen.to(device), heads=()).cell_BD
            batch = objective.cell_prompted(batch)
        assert batch.hidden_BL is not None
        scored.append(np.nan_to_num(_spread(batch.hidden_BL.float(), batch, n_tokens)) == 1)
        for k in rounds:
            made_BL = generate(model, batch.to(device), rounds=k, prompt_BD=prompt_BD)
            name = "scGPT" if k == 1 else f"scGPT, {k} rounds"
            parts[name].append(_spread(made_BL, batch, n_tokens))
    joined = {name: np.concatenate(each) for name, each in parts.items()}
    return Profiles(joined.pop("true"), np.concatenate(scored), joined)


def _true_bins(cells: Cells, ckpt: Checkpoint, seed: int) -> NDArray[np.float32]:
    """Bins of all genes of cells, N x T, NaN where they have none."""
    tokens = _token_settings(ckpt, ckpt.vocab.n_tokens + 1, 0.0)
    return np.concatenate(
        [
            _spread(batch.values_BL, batch, ckpt.vocab.n_tokens)
            for batch in _batches(cells, tokens, seed)
        ]
    )


def _type_means(
    reference_NT: NDArray[np.float32],
    reference_type_N: NDArray[np.int64],
    type_N: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Mean bin of a gene among the cells of the type that express it; else among all cells."""
    overall_T = _mean(reference_NT)
    overall_T[np.isnan(overall_T)] = np.nanmean(reference_NT)
    means = {}
    for code in np.unique(type_N):
        mean_T = _mean(reference_NT[reference_type_N == code])
        means[code] = np.where(np.isnan(mean_T), overall_T, mean_T)
    return np.stack([means[code] for code in type_N])


def _mean(bins_NT: NDArray[np.float32]) -> NDArray[np.float32]:
    there_NT = ~np.isnan(bins_NT)
    n_T = there_NT.sum(0)
    sum_T = np.where(there_NT, bins_NT, 0).sum(0)
    mean_T: NDArray[np.float32] = np.where(n_T > 0, sum_T / np.maximum(n_T, 1), np.nan)
    return mean_T


def _random_cells(
    reference_NT: NDArray[np.float32],
    reference_type_N: NDArray[np.int64],
    type_N: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float32]:
    """Draw a reference cell of its type for each cell; its bin of a gene it has not is 0."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(reference_type_N == code)) for code in type_N]
    return np.nan_to_num(reference_NT[rows])
