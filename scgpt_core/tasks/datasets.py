"""Data sets of the tasks: fetched, verified and checked before anything long runs."""

import logging
import shutil
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core import runs
from scgpt_core.config import DatasetRow
from scgpt_core.data.labels import harmonise_labels
from scgpt_core.data.obs import find_column, query_cells
from scgpt_core.data.qc import check_counts
from scgpt_core.keys import (
    BATCH,
    CELL_TYPE,
    CELL_TYPE_ID,
    EMBEDDING,
    FEATURE_ID,
    LABEL,
    UNKNOWN,
)
from scgpt_core.tasks.modalities import is_mudata, read_mudata, take_modalities, write_modalities

SOURCE_SHA256 = "source_sha256"
"""Key of uns: digest of the file that a data set was made of."""
_LOESS_SPANS = (0.3, 0.5, 0.8)
_LEAST_VARYING_GENES = 20  # in a batch; with a handful the regression kills the process
_TIMEOUT_SECONDS = 60

logger = logging.getLogger(__name__)


def download_dataset(row: DatasetRow, url: str, output: str | Path) -> None:
    """Fetch a data set's file and verify it.

    Raises
    ------
    ValueError
        Where the row has no SHA-256, the file is not the row's, or the server does not give it.
    """
    if not row.sha256:
        message = f"{row.dataset}: {url} is a URL: its row of the table needs the file's SHA-256"
        raise ValueError(message)
    logger.info("%s: downloading %s", row.dataset, url)
    with runs.whole(output) as temporary:
        try:
            with (
                urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(response, file, length=2**20)
        except (urllib.error.URLError, TimeoutError) as error:
            message = f"{row.dataset}: {url} cannot be downloaded: {error}"
            raise ValueError(message) from error
        _verify(temporary, row)


def prepare_dataset(
    row: DatasetRow, source: str | Path, output: str | Path, *, cell_types: str | Path
) -> None:
    """Write a data set in the one form that all tasks read.

    The file has raw counts (CSR, float32) in X; in obs the categories `batch`, `label` ("unknown"
    where it is missing) and, by the label's harmonised name, `cell_type` with its ontology id; in
    var `feature_id` where the source has it; in uns the source's SHA-256; what the row names beside
    RNA as `write_modalities` puts it. Cells without any count of RNA are left out.

    Parameters
    ----------
    row
        Which cells and columns to take.
    source
        The h5ad file, or an h5mu file (MuData) with a modality "rna".
    output
        The h5ad file to write.
    cell_types
        Table of `harmonise_labels`.

    Raises
    ------
    ValueError
        Where the file, a column, a name or a count is not as it should be: says what was found.
    """
    source = Path(source)
    if not source.is_file():
        message = f"{row.dataset}: {source} does not exist: look at `path` in datasets.tsv"
        raise ValueError(message)
    digest = _verify(source, row)
    content = _read(source, row)
    adata = _take_cells(_take_counts(content, row), row)
    check_counts(adata.X, source=row.dataset)
    prepared = ad.AnnData(
        adata.X,
        obs=_describe(adata.obs, row, cell_types),
        var=adata.var[[FEATURE_ID]].astype(str) if FEATURE_ID in adata.var else adata.var[[]],
        uns={SOURCE_SHA256: digest},
    )
    if row.modalities:
        write_modalities(prepared, take_modalities(content[prepared.obs_names], row))
    with runs.whole(output) as temporary:
        prepared.write_h5ad(temporary, **runs.COMPRESSION, convert_strings_to_categoricals=False)
    label = prepared.obs[LABEL]
    logger.info(
        "%s: %d cells x %d genes, %d batches, %d labels (%d cells have none)",
        row.dataset,
        *prepared.shape,
        prepared.obs[BATCH].nunique(),
        label[label != UNKNOWN].nunique(),
        (label == UNKNOWN).sum(),
    )


def write_embedding(
    emb_ND: NDArray[np.float32],
    adata: ad.AnnData,
    path: str | Path,
    *,
    obs: Mapping[str, NDArray[Any]] | None = None,
    obsm: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write the embedding file of a task: `batch` and `label` in obs, the embedding in obsm.

    Parameters
    ----------
    emb_ND
        Cells x dimensions, finite.
    adata
        The prepared data set that they are of.
    path
        The h5ad file to write.
    obs, obsm
        What else it gets there.
    """
    assert len(emb_ND) == adata.n_obs, "an embedding has a row for each cell"
    embedding = ad.AnnData(
        obs=adata.obs[[BATCH, LABEL]].assign(**(obs or {})),
        obsm={EMBEDDING: np.ascontiguousarray(emb_ND, dtype=np.float32), **(obsm or {})},
        uns={SOURCE_SHA256: adata.uns[SOURCE_SHA256]},
    )
    with runs.whole(path) as temporary:
        embedding.write_h5ad(temporary)


def require_batches(adata: ad.AnnData) -> None:
    """Stop where a prepared data set has a single batch: there is nothing to integrate."""
    batches = adata.obs[BATCH].unique()
    if len(batches) < 2:
        message = (
            f"all {adata.n_obs} cells are of batch {batches[0]!r}: integration needs two batches at"
            " least; look at batch_key in datasets.tsv"
        )
        raise ValueError(message)


def variable_genes(
    adata: ad.AnnData, n_genes: int, *, among: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Mark the genes that vary most within the batches of a prepared data set (seurat_v3).

    Where the genes of a batch cannot be ranked, the smallest batch is counted to the largest, until
    all can: a donor may have a single cell where few labels are learned from.

    Parameters
    ----------
    adata
        Raw counts, `obs["batch"]`.
    n_genes
        How many; all, where there are no more.
    among
        (G,), the genes to choose from; None: all.

    Returns
    -------
    (G,), True for the chosen ones.

    Raises
    ------
    ValueError
        Where the counts are too few for it, with all cells in one batch too.
    """
    chosen = np.ones(adata.n_vars, bool) if among is None else among.copy()
    if chosen.sum() <= n_genes:
        return chosen
    cells = ad.AnnData(adata.X[:, chosen], obs=adata.obs[[BATCH]].astype(str))
    while (variable := _rank_genes(cells, n_genes)) is None:
        sizes = cells.obs[BATCH].value_counts()
        if len(sizes) == 1:
            sizes = adata.obs[BATCH].value_counts()
            message = (
                "too few cells or counts to tell variable genes, also with all batches as one"
                f" (cells by batch: {', '.join(f'{batch} {n}' for batch, n in sizes.items())})"
            )
            raise ValueError(message)
        logger.info(
            "batch %s (%d cells) is too small to rank genes in: counted to %s",
            sizes.index[-1],
            sizes.iloc[-1],
            sizes.index[0],
        )
        cells.obs[BATCH] = cells.obs[BATCH].replace(sizes.index[-1], sizes.index[0])
    chosen[chosen] = variable
    return chosen


def _rank_genes(cells: ad.AnnData, n_genes: int) -> NDArray[np.bool_] | None:
    """Mark the genes that vary most, (G,); None where a batch has too few cells or counts."""
    import scanpy as sc  # takes seconds, which jobs that only read and write need not spend

    for span in _LOESS_SPANS if _least_varying(cells) >= _LEAST_VARYING_GENES else ():
        try:
            ranks = sc.pp.highly_variable_genes(
                cells,
                n_top_genes=n_genes,
                flavor="seurat_v3",
                batch_key=BATCH,
                span=span,
                inplace=False,
            )
        except ValueError as error:
            # The regression of variance on mean is singular where many rare genes share one mean.
            logger.info("variance is not to be regressed over %g of the genes: %s", span, error)
            continue
        return np.asarray(ranks["highly_variable"], bool)
    return None


def _least_varying(adata: ad.AnnData) -> int:
    """Genes that vary at all, in the batch where they are the fewest."""
    parts = (adata.X[(adata.obs[BATCH] == batch).to_numpy()] for batch in adata.obs[BATCH].unique())
    return min(int((part.max(axis=0) - part.min(axis=0)).count_nonzero()) for part in parts)


def _verify(path: Path, row: DatasetRow) -> str:
    """Give the file's SHA-256; stop where it is not the row's."""
    digest = runs.sha256(path)
    if row.sha256 and digest != row.sha256:
        message = (
            f"{row.dataset}: {row.path} has SHA-256 {digest}, its row says {row.sha256}: the file"
            " is damaged, or another version"
        )
        raise ValueError(message)
    return digest


def _read(path: Path, row: DatasetRow) -> ad.AnnData:
    try:
        with h5py.File(path) as file:
            parts = sorted(file)
        if not {"obs", "mod"} & set(parts):
            message = (
                f"{row.dataset}: {row.path} is HDF5 but no h5ad file: it has {', '.join(parts)}"
                " and no obs; a .h5 of 10x becomes one by scanpy.read_10x_h5(...).write_h5ad(...)"
            )
            raise ValueError(message)
        with warnings.catch_warnings():
            # An error of ours, that says which ones, comes after it.
            warnings.filterwarnings("ignore", message=".* names are not unique")
            return read_mudata(path, row) if is_mudata(path) else ad.read_h5ad(path)
    except OSError as error:
        message = f"{row.dataset}: {row.path} is not a whole h5ad file: {error}"
        raise ValueError(message) from error


def _take_counts(adata: ad.AnnData, row: DatasetRow) -> ad.AnnData:
    """Cells with the counts of the row's layer in X (CSR, float32), and their genes."""
    available: dict[str | None, Any] = {**adata.layers}
    if adata.X is not None:
        available[None] = adata.X
    if adata.raw is not None:
        available["raw"] = adata.raw.X
    if row.layer not in available:
        names = ", ".join(sorted(name for name in available if name)) or "none"
        absent = "nothing in X" if row.layer is None else f"no layer {row.layer!r}"
        message = (
            f"{row.dataset}: there is {absent}; there are: {names}: name the one with raw counts"
            " under `layer` in datasets.tsv"
        )
        raise ValueError(message)
    var = adata.raw.var if row.layer == "raw" and adata.raw is not None else adata.var
    _check_unique(adata.obs_names, row, "cells", "number them (adata.obs_names_make_unique())")
    _check_unique(var.index, row, "genes", "name them by Ensembl id, or add up their counts")
    counts = csr_matrix(available[row.layer], dtype=np.float32)
    counts.eliminate_zeros()
    counts.sort_indices()
    return ad.AnnData(counts, obs=adata.obs, var=var)


def _take_cells(adata: ad.AnnData, row: DatasetRow) -> ad.AnnData:
    """Cells that the row's filter keeps and that have counts."""
    kept = query_cells(adata.obs, row.obs_filter, source=row.dataset, key="obs_filter")
    adata = adata[kept]
    full = np.diff(adata.X.indptr) > 0
    if adata.n_obs and not full.all():
        logger.warning("%s: %d cells without any count are left out", row.dataset, np.sum(~full))
    if not full.any():
        message = f"{row.dataset}: no cell is left by obs_filter {row.obs_filter!r}"
        raise ValueError(message)
    return adata[full].copy()


def _check_unique(names: pd.Index, row: DatasetRow, what: str, remedy: str) -> None:
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        shown = ", ".join(map(str, repeated[:5])) + (", ..." if len(repeated) > 5 else "")
        message = (
            f"{row.dataset}: {len(repeated)} names stand for several {what} ({shown}): {remedy}"
        )
        raise ValueError(message)


def _describe(obs: pd.DataFrame, row: DatasetRow, cell_types: str | Path) -> pd.DataFrame:
    """Columns of the prepared file, as categories."""
    batch = _column(obs, row.batch_key, row, absent=row.dataset)
    if batch.isna().any():
        message = f"{row.dataset}: {batch.isna().sum()} cells have no {row.batch_key!r}"
        raise ValueError(message)
    label = _column(obs, row.label_key, row, absent=UNKNOWN).fillna(UNKNOWN)
    names = harmonise_labels(label, cell_types)
    own = {BATCH: row.batch_key, LABEL: row.label_key, CELL_TYPE: row.label_key, CELL_TYPE_ID: None}
    if taken := [name for name in row.obs_columns if name in own and own[name] != name]:
        message = (
            f"{row.dataset}: obs_columns has {', '.join(taken)}, where the prepared file has a "
            "column of its own: rename it in the file, or name it as batch_key or label_key"
        )
        raise ValueError(message)
    kept = {name: _column(obs, name, row, absent="").fillna(UNKNOWN) for name in row.obs_columns}
    columns: dict[str, Iterable[str]] = {
        **kept,
        BATCH: batch,
        LABEL: label,
        CELL_TYPE: names.names,
        CELL_TYPE_ID: names.ids,
    }
    return pd.DataFrame(columns, index=obs.index).astype(str).astype("category")


def _column(obs: pd.DataFrame, key: str | None, row: DatasetRow, *, absent: str) -> pd.Series:
    """Column of obs, with missing values; `absent` for all cells where the row names none."""
    if key is None:
        return pd.Series(absent, index=obs.index)
    return find_column(obs, key, source=row.dataset)
