"""Map a prepared data set onto a reference, score it where labels are known, and its baselines too.

Shapes: Q queries, D width.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anndata as ad
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import EmbedSettings, MappingSettings
from scgpt_core.data.cells import cells_from_csr
from scgpt_core.data.genes import match_var
from scgpt_core.index.baselines import Prediction, predict_baselines
from scgpt_core.index.corpus import open_source, sample_labelled
from scgpt_core.index.ontology import Ontology, read_ontology
from scgpt_core.index.reference import open_index
from scgpt_core.index.transfer import LabelTransfer
from scgpt_core.index.vote import calibration_error
from scgpt_core.keys import EMBEDDING, LABEL, UNKNOWN
from scgpt_core.runs import run_record, whole
from scgpt_core.tasks.embedding import embed_cells

logger = logging.getLogger(__name__)

_BLOCK_CELLS: Final = 8192


def map_dataset(
    dataset: str | Path,
    model_folder: str | Path,
    index_folder: str | Path,
    sources: Sequence[str | Path],
    output_folder: str | Path,
    *,
    settings: MappingSettings,
    embed: EmbedSettings,
    ontology: str | Path,
    seed: int,
    threads: int,
) -> None:
    """Write what `LabelTransfer.map` says of every cell of a data set, and how right it is.

    The cells are embedded as those of the reference: of the same length, with the same seed.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`, read chunk by chunk.
    model_folder
        The model of the reference.
    index_folder
        The reference.
    sources
        What it is made of, for the baselines: manifests of corpora, h5ad files of data sets.
    output_folder
        Gets ``mapping.parquet``: the table of `LabelTransfer.map`, and ``label``, the true one, and
        ``right`` (see `score_mapping`), both null where the true one is unknown;
        ``embedding.h5ad``: the cells' embedding; and ``run.json``: how confidence was calibrated,
        and `score_mapping` of ours and of the baselines where labels are known.
    settings
        Of the mapping.
    embed
        Of the embedding: device, precision, mini-batch and the share of genes to match.
    ontology
        Table for `read_ontology`.
    seed
        Of the baselines.
    threads
        Of faiss.
    """
    folder, terms = Path(output_folder), read_ontology(ontology)
    described = settings.model_dump(mode="json")
    with run_record(folder / "run.json", described) as run, _backed(dataset) as adata:
        reference = open_index(index_folder, threads=threads)
        ckpt = load_checkpoint(model_folder, embed.device)
        transfer = LabelTransfer(reference, settings, terms)
        query_QD = embed_cells(
            adata,
            ckpt,
            **reference.manifest["settings"],
            batch_size=embed.batch_size,
            precision=embed.precision,
            min_matched=embed.min_matched,
            parts=folder / "parts",
        )
        cells, truth_Q = adata.obs_names.to_numpy(), _truth(adata, settings.label_column)
        tables = (
            _add_truth(
                transfer.map(cells[block], query_QD[block], model=ckpt.digest),
                truth_Q[block],
                terms,
            )
            for block in _blocks(len(cells))
        )
        mapped = _write(folder / "mapping.parquet", tables, len(cells))
        with whole(folder / "embedding.h5ad") as temporary:
            ad.AnnData(obs=adata.obs[[]], obsm={EMBEDDING: query_QD}).write_h5ad(temporary)
        run |= {
            "model": ckpt.digest,
            "corpora": reference.manifest["corpora"],
            "n_cells": len(cells),
            "unknown_share": float(mapped["unknown"].to_numpy().mean()),
            "calibration": transfer.report,
            "scores": {},
        }
        known_Q = truth_Q != UNKNOWN
        if known_Q.any():
            named = mapped["predicted"].fill_null(UNKNOWN)
            ours = Prediction(np.array(named.to_pylist()), mapped["confidence"].to_numpy())
            baselines = _predict_baselines(adata, ckpt, sources, settings, seed)
            run["scores"] = {
                name: score_mapping(prediction, truth_Q, known_Q, terms)
                for name, prediction in {"scgpt": ours, **baselines}.items()
            }
            logger.info("%s: %s", Path(dataset).stem, run["scores"])
    shutil.rmtree(folder / "parts", ignore_errors=True)


def _truth(adata: ad.AnnData, column: str) -> NDArray[np.str_]:
    """Give the true labels of the cells, `UNKNOWN` where the data set has none."""
    if column not in adata.obs:
        return np.full(adata.n_obs, UNKNOWN)
    labels_Q: NDArray[np.str_] = adata.obs[column].to_numpy(dtype=str)
    return labels_Q


def score_mapping(
    prediction: Prediction,
    truth_Q: NDArray[np.str_],
    known_Q: NDArray[np.bool_],
    ontology: Ontology,
) -> dict[str, Any]:
    """Accuracy, macro-F1 and calibration error on cells whose label is known.

    A prediction is right where it is the true label or, in the ontology, a kind of it. macro-F1 is
    the mean over the true labels, those that the reference lacks included.

    Parameters
    ----------
    prediction
        Labels and confidence of all queries.
    truth_Q
        True labels.
    known_Q
        Which queries have one.
    ontology
        What is a kind of what.
    """
    truth, predicted = truth_Q[known_Q], prediction.label_Q[known_Q]
    right = _is_right(predicted, truth, ontology)
    f1 = f1_score(
        truth,
        np.where(right, truth, predicted),
        labels=np.unique(truth),
        average="macro",
        zero_division=0,
    )
    return {
        "cells": int(known_Q.sum()),
        "accuracy": float(right.mean()),
        "macro_f1": float(f1),
        "calibration_error": calibration_error(prediction.confidence_Q[known_Q], right),
    }


def _is_right(
    predicted_Q: NDArray[np.str_], truth_Q: NDArray[np.str_], ontology: Ontology
) -> NDArray[np.bool_]:
    pairs, pair_of_cell = np.unique(np.stack([predicted_Q, truth_Q]), axis=1, return_inverse=True)
    return np.array([ontology.is_kind_of(p, t) for p, t in pairs.T])[pair_of_cell]


def _add_truth(mapped: pa.Table, truth_Q: NDArray[np.str_], ontology: Ontology) -> pa.Table:
    predicted_Q = np.array(mapped["predicted"].fill_null(UNKNOWN).to_pylist())
    right_Q = _is_right(predicted_Q, truth_Q, ontology)
    for name, values_Q in ((LABEL, truth_Q), ("right", right_Q)):
        mapped = mapped.append_column(name, pa.array(values_Q, mask=truth_Q == UNKNOWN))
    return mapped


def _predict_baselines(
    adata: ad.AnnData,
    ckpt: Checkpoint,
    sources: Sequence[str | Path],
    settings: MappingSettings,
    seed: int,
) -> dict[str, Prediction]:
    """Predictions from counts, by a sample of the same reference cells."""
    reference, label_N = sample_labelled(
        [open_source(source, ckpt.vocab) for source in sources],
        settings.label_column,
        n_cells=settings.baseline_cells,
        seed=seed,
    )
    if len(np.unique(label_N)) < 2:
        logger.warning("the reference has one label alone: there is nothing for baselines to learn")
        return {}
    counts = csr_matrix(adata.X[:])
    query = cells_from_csr(
        counts.indptr,
        counts.indices,
        counts.data,
        token_ids=match_var(adata.var, ckpt.vocab).ids,
        cell_ids=np.arange(adata.n_obs),
    )
    return predict_baselines(reference, label_N, query, k=settings.neighbours, seed=seed)


def _write(output: Path, tables: Iterator[pa.Table], n_cells: int) -> pa.Table:
    """Write row groups as they come; give the columns that are scored."""
    writer, scored, done = None, [], 0
    with whole(output) as temporary:
        for table in tables:
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            scored.append(table.select(["predicted", "confidence", "unknown"]))
            done += table.num_rows
            logger.info("%d of %d cells mapped", done, n_cells)
        assert writer is not None, "LabelTransfer refuses an empty query"
        writer.close()
    return pa.concat_tables(scored).combine_chunks()


def _blocks(n_cells: int) -> Iterator[slice]:
    # A data set without cells is mapped too: into an error that says so.
    for first in range(0, max(n_cells, 1), _BLOCK_CELLS):
        yield slice(first, first + _BLOCK_CELLS)


@contextmanager
def _backed(path: str | Path) -> Iterator[ad.AnnData]:
    adata = ad.read_h5ad(path, backed="r")
    try:
        yield adata
    finally:
        adata.file.close()
