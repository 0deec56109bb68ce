"""The cells of a gene network: one choice of cells, genes and regulators for every method.

Shapes: N cells, G genes, T regulators.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgpt_core.config import Contrast, NetworkSettings
from scgpt_core.data.cells import Cells, read_cells, take_cells
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import LABEL
from scgpt_core.networks.cells import (
    choose_variable,
    log_expression,
    match_genes_of,
    named_genes,
)
from scgpt_core.networks.edges import ALL, CONTROL, PERTURBED
from scgpt_core.networks.gene_sets import read_regulation, read_regulators
from scgpt_core.runs import COMPRESSION, whole

CONDITION, LOG = "network_condition", "log"
TOKEN, REGULATOR, SUBSET = "token_id", "is_regulator", "in_subset"
_LEAST_CELLS = 20  # of a condition; fewer give no correlation worth its name

logger = logging.getLogger(__name__)


class NetworkCells(NamedTuple):
    """What a network is made of; `adata` is as `prepare_network` wrote it."""

    adata: ad.AnnData
    genes: list[str]
    """(G,), symbols."""
    regulators: list[str]
    """(T,), those of the genes from which edges start."""
    rows: dict[str, NDArray[np.int64]]
    """Rows of the cells of each condition."""

    @property
    def columns(self) -> NDArray[np.int64]:
        """(T,), where the regulators are among the genes."""
        return np.flatnonzero(self.adata.var[REGULATOR])

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """(G,)."""
        token_ids: NDArray[np.int32] = self.adata.var[TOKEN].to_numpy(np.int32)
        return token_ids

    def cells(self) -> dict[str, Cells]:
        """Cells of each condition, by token id."""
        read = read_cells(self.adata, self.token_ids)
        return {condition: take_cells(read, rows) for condition, rows in self.rows.items()}


def prepare_network(
    dataset: str | Path,
    vocab: str | Path,
    output: str | Path,
    *,
    regulators: str | Path,
    regulation: str | Path,
    contrast: Contrast,
    settings: NetworkSettings,
    seed: int,
) -> None:
    """Write the cells and genes of a network as h5ad.

    It has counts in X, log counts per 10,000 in the layer `log`, the condition of each cell
    ("control", "perturbed" or "all"), and of each gene, by its symbol, the token, whether it is a
    regulator, and whether it is of the subset of targets that slow methods are run on.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`.
    vocab
        Of the model.
    regulators, regulation
        As `read_regulators` and `read_regulation` read them.

    Raises
    ------
    ValueError
        Where the contrast's column, labels or conditions are not in the data set, a condition has
        too few cells, or no regulator is expressed.
    """
    cells = take_contrast(ad.read_h5ad(dataset), contrast)
    chosen = choose_genes(cells, Vocabulary.load(vocab), read_regulators(regulators), settings)
    known = read_regulation(regulation)
    known = known[known["source"].isin(chosen.var_names[chosen.var[REGULATOR]])]
    among = np.flatnonzero(chosen.var_names.isin(known["target"]))
    drawn = np.random.default_rng(seed).permutation(among)[: settings.trees.n_targets]
    chosen.var[SUBSET] = np.isin(np.arange(chosen.n_vars), drawn)
    logger.info(
        "%d cells (%s), %d genes, %d of them regulators",
        chosen.n_obs,
        ", ".join(f"{n} {name}" for name, n in chosen.obs[CONDITION].value_counts().items()),
        chosen.n_vars,
        chosen.var[REGULATOR].sum(),
    )
    with whole(output) as temporary:
        chosen.write_h5ad(temporary, **COMPRESSION)


def open_network(path: str | Path) -> NetworkCells:
    """Read what `prepare_network` wrote."""
    adata = ad.read_h5ad(path)
    condition = adata.obs[CONDITION].to_numpy(dtype=str)
    rows = {
        name: np.flatnonzero(condition == name)
        for name in (CONTROL, PERTURBED, ALL)
        if name in condition
    }
    regulators = adata.var_names[adata.var[REGULATOR]].to_list()
    return NetworkCells(adata, adata.var_names.to_list(), regulators, rows)


def take_contrast(adata: ad.AnnData, contrast: Contrast) -> ad.AnnData:
    """Cells of a contrast's types and conditions, with their condition in obs."""
    if contrast.labels:
        _require(contrast.labels, adata.obs[LABEL], "labels")
        adata = adata[adata.obs[LABEL].isin(contrast.labels)]
    if contrast.control is None or contrast.perturbed is None:
        names = {}
        condition = pd.Series(ALL, index=adata.obs_names)
    else:
        if contrast.column not in adata.obs:
            message = (
                f"networks: obs has no column {contrast.column!r}; it has: "
                f"{', '.join(adata.obs.columns)} (obs_columns of datasets.tsv keeps more)"
            )
            raise ValueError(message)
        names = {contrast.control: CONTROL, contrast.perturbed: PERTURBED}
        _require(names, adata.obs[contrast.column], contrast.column)
        condition = adata.obs[contrast.column].astype(str).map(names)
    taken = adata[condition.notna().to_numpy()].copy()
    taken.obs[CONDITION] = condition.dropna().astype("category")
    sizes = taken.obs[CONDITION].value_counts()
    if sizes.min() < _LEAST_CELLS:
        message = (
            f"networks: {sizes.idxmin()} has {sizes.min()} cells, where {_LEAST_CELLS} are needed:"
            " choose other labels or conditions"
        )
        raise ValueError(message)
    return taken


def _require(names: Collection[str], column: pd.Series, what: str) -> None:
    if missing := sorted(set(names) - set(column.astype(str))):
        found = ", ".join(sorted(column.astype(str).unique())[:20])
        message = f"networks: {what}: no cell is of {', '.join(missing)}; there are: {found}"
        raise ValueError(message)


def choose_genes(
    cells: ad.AnnData,
    vocab: Vocabulary,
    regulators: Collection[str],
    settings: NetworkSettings,
) -> ad.AnnData:
    """Take counts and log expression of variable genes and expressed regulators, by symbol."""
    match = match_genes_of(cells, vocab, settings.min_matched)
    named_G = named_genes(match, vocab)
    symbols = np.array([vocab.symbols[token] for token in match.ids])
    share_G = np.asarray((cells.X > 0).mean(axis=0)).ravel()
    regulator_G = (
        named_G & np.isin(symbols, list(regulators)) & (share_G >= settings.min_regulator_share)
    )
    if not regulator_G.any():
        message = (
            f"networks: no regulator is expressed by {settings.min_regulator_share:.0%} of the "
            "cells: lower min_regulator_share, or look at the file of regulators"
        )
        raise ValueError(message)
    chosen_G = choose_variable(cells, settings.n_genes, named_G) | regulator_G
    logged = log_expression(cells)
    return ad.AnnData(
        cells.X[:, chosen_G].copy(),
        obs=cells.obs[[CONDITION]],
        var=pd.DataFrame(
            {TOKEN: match.ids[chosen_G], REGULATOR: regulator_G[chosen_G]},
            index=symbols[chosen_G],
        ),
        layers={LOG: logged.X[:, chosen_G].copy()},
    )
