"""Generation: profiles of cells from some of their genes, or from their embedding alone.

Generated profiles are compared with the true ones of cells that no predictor has seen, beside the
mean and a random real cell of their type.

Shapes: N cells, R reference cells, T tokens of the vocabulary.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import GenerationSettings
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.cells import Cells, read_cells, take_cells
from scgpt_core.data.genes import match_var
from scgpt_core.keys import LABEL, UNKNOWN
from scgpt_core.runs import run_record, write_parquet
from scgpt_core.tasks.generator import Prompt, generate_all, true_bins
from scgpt_core.tasks.profiles import (
    Mask,
    cell_correlations,
    draw_others,
    gene_errors,
    mixing,
    type_means,
)

SIMPLE = ("mean of the type", "real cell of the type")
"""The predictors that generation is compared with."""
ALL_TYPES = "all"
"""Stands for the cell type in scores over all of them."""
_LEAST_CELLS = 2
"""Of a type that are generated: each is the other's real cell."""

logger = logging.getLogger(__name__)


class Assessment(NamedTuple):
    """How good generated profiles are."""

    scores: pd.DataFrame
    """Tidy: prompt, predictor, cell_type (or `ALL_TYPES`), metric, value. Over the values that the
    prompt does not give: "cell_correlation", Pearson's r with the true bins, mean over cells;
    "gene_error", root mean squared error of a gene in bins, mean over genes. "mixing" of the whole
    profiles, mean over cells: see `scgpt_core.tasks.profiles.mixing`."""
    genes: pd.DataFrame
    """prompt, predictor, gene, cells (that it was generated for), error (root mean square)."""
    cells: dict[str, int]
    """Cells that were generated, by type."""


def generate_dataset(
    dataset: str | Path,
    model_folder: str | Path,
    output_folder: str | Path,
    *,
    settings: GenerationSettings,
    seed: int,
) -> None:
    """Write `scores.parquet`, `genes.parquet` and `run.json` of generation on a prepared data set.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`.

    Raises
    ------
    ValueError
        As `assess_generation`.
    """
    folder = Path(output_folder)
    described = {**settings.model_dump(mode="json", exclude={"datasets"}), "seed": seed}
    with run_record(folder / "run.json", described) as run:
        ckpt = load_checkpoint(model_folder, settings.device)
        assessment = assess_generation(ad.read_h5ad(dataset), ckpt, settings, seed=seed)
        write_parquet(folder / "scores.parquet", assessment.scores)
        write_parquet(folder / "genes.parquet", assessment.genes)
        run |= {"model": ckpt.digest, "cells": assessment.cells}


def assess_generation(
    adata: ad.AnnData, ckpt: Checkpoint, settings: GenerationSettings, *, seed: int
) -> Assessment:
    """Compare generated profiles with true ones, and with what simple predictors say.

    Profiles of some cells, at most half of each type, are generated from a share of their genes
    ("genes") and from their embedding ("cell"); other cells are the reference of the simple
    predictors. The model and the mean of the type are told which genes the cell has; a random real
    cell is another one as it is.

    Parameters
    ----------
    adata
        Raw counts, with types in ``obs["label"]`` (`prepare_dataset`).

    Raises
    ------
    ValueError
        Where no cell has a type, no type has four cells among those that are drawn, too few genes
        match, or the model lacks a head.
    """
    if missing := {"gep", "gepc"} - ckpt.model.heads:
        message = (
            f"generation needs a model with GEP and GEPC; this one lacks {sorted(missing)}: take "
            "another, or leave generation.datasets empty"
        )
        raise ValueError(message)
    cells, labels_N = _labelled_cells(adata, ckpt, settings.min_matched)
    reference, test = _split(cells.cell_ids, labels_N, settings, seed)
    names, codes_N = np.unique(labels_N, return_inverse=True)
    reference_RT = true_bins(take_cells(cells, reference), ckpt, settings, seed)
    type_R, type_N = codes_N[reference], codes_N[test]
    means_NT = type_means(reference_RT, type_R, type_N)
    others = draw_others(type_N, seed)
    others_NT = true_bins(take_cells(cells, test[others]), ckpt, settings, seed, whole=True)
    scores, genes = [], []
    for prompt in get_args(Prompt):
        made = generate_all(take_cells(cells, test), ckpt, prompt, settings, seed)
        guesses = made.generated | {
            SIMPLE[0]: np.where(made.scored_NT, means_NT, made.true_NT),
            SIMPLE[1]: others_NT,
        }
        for predictor, guess_NT in guesses.items():
            by_cell = {
                "cell_correlation": cell_correlations(guess_NT, made.true_NT, made.scored_NT),
                # Beside a reference that is sampled, another cell is so too.
                "mixing": mixing(
                    made.true_NT[others] if predictor == SIMPLE[1] else guess_NT,
                    reference_RT,
                    type_N,
                    type_R,
                ),
            }
            error_T = gene_errors(guess_NT, made.true_NT, made.scored_NT)
            scores.append(_score_table(by_cell, error_T, names[type_N], prompt, predictor))
            genes.append(_gene_table(error_T, made.scored_NT, ckpt, prompt, predictor))
    found = pd.concat(scores, ignore_index=True)
    for line in found[found["cell_type"] == ALL_TYPES].itertuples():
        logger.info("%s, %s: %s %.3f", line.prompt, line.predictor, line.metric, line.value)
    n_by_type = dict(zip(names.tolist(), np.bincount(type_N, minlength=len(names)), strict=True))
    n_by_type = {name: int(n) for name, n in n_by_type.items() if n}
    return Assessment(found, pd.concat(genes, ignore_index=True), n_by_type)


def _score_table(
    by_cell: Mapping[str, NDArray[np.float64]],
    error_T: NDArray[np.float64],
    types_N: NDArray[np.str_],
    prompt: Prompt,
    predictor: str,
) -> pd.DataFrame:
    """Scores of one predictor: over all cells, and by type; none where a metric is not defined."""
    each = pd.DataFrame({"cell_type": types_N, **by_cell}).melt("cell_type", var_name="metric")
    by_type = each.groupby(["cell_type", "metric"])["value"].mean().reset_index()
    overall = each.groupby("metric")["value"].mean().reset_index()
    errors = pd.DataFrame({"metric": ["gene_error"], "value": [np.nanmean(error_T)]})
    overall = pd.concat([overall, errors]).assign(cell_type=ALL_TYPES)
    table = pd.concat([overall, by_type]).dropna().assign(prompt=prompt, predictor=predictor)
    return table.reindex(columns=["prompt", "predictor", "cell_type", "metric", "value"])


def _gene_table(
    error_T: NDArray[np.float64], scored_NT: Mask, ckpt: Checkpoint, prompt: Prompt, predictor: str
) -> pd.DataFrame:
    scored = np.flatnonzero(scored_NT.any(0))
    return pd.DataFrame(
        {
            "prompt": prompt,
            "predictor": predictor,
            "gene": [ckpt.vocab.symbols[token] for token in scored],
            "cells": scored_NT.sum(0)[scored],
            "error": error_T[scored],
        }
    )


def _labelled_cells(
    adata: ad.AnnData, ckpt: Checkpoint, min_matched: float
) -> tuple[Cells, NDArray[np.str_]]:
    """Cells that have a type, by token, and their types."""
    adata = adata[adata.obs[LABEL] != UNKNOWN]
    if adata.n_obs == 0:
        message = (
            "no cell has a label: generation is judged beside cells of the same type; name the"
            " `label_key` of the data set in datasets.tsv, or take it out of generation.datasets"
        )
        raise ValueError(message)
    match = match_var(adata.var, ckpt.vocab)
    match.require(min_matched, np.asarray(adata.X.sum(axis=0)).ravel(), source="the data set")
    return read_cells(adata, match.ids), adata.obs[LABEL].to_numpy(dtype=str)


def _split(
    cell_ids: NDArray[np.int64], labels_N: NDArray[np.str_], settings: GenerationSettings, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the reference and of the cells to generate, of types that have enough of both."""
    order = np.argsort(draw_keys(seed, 0, cell_ids), kind="stable")
    rank_N = np.empty(len(order), np.int64)  # of a cell among those of its type
    size_N = np.empty(len(order), np.int64)
    for name in np.unique(labels_N):
        rows = order[labels_N[order] == name]
        rank_N[rows], size_N[rows] = np.arange(len(rows)), len(rows)
    in_test = order[rank_N[order] < size_N[order] // 2][: settings.max_cells]
    kept = [
        name
        for name, n in zip(*np.unique(labels_N[in_test], return_counts=True), strict=True)
        if n >= _LEAST_CELLS
    ]
    test = in_test[np.isin(labels_N[in_test], kept)]
    if len(test) == 0:
        message = (
            f"no cell type has {_LEAST_CELLS} among the {len(in_test)} cells that were drawn: "
            "generation is judged beside cells of the same type"
        )
        raise ValueError(message)
    others = order[rank_N[order] >= size_N[order] // 2]
    reference = others[np.isin(labels_N[others], kept)][: settings.reference_cells]
    return reference, test
