"""Map a prepared data set onto a reference, score it where labels are known, and its baselines too.

Shapes: Q queries, D width.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import EmbedSettings, MappingSettings
from scgpt_core.index.baselines import Baselines, Prediction
from scgpt_core.index.ontology import Ontology, read_ontology
from scgpt_core.index.reference import Reference, open_index
from scgpt_core.index.sources import DatasetCells, open_source, sample_labelled
from scgpt_core.index.transfer import LabelTransfer
from scgpt_core.index.vote import calibration_error
from scgpt_core.keys import EMBEDDING, LABEL, UNKNOWN
from scgpt_core.runs import run_record, whole
from scgpt_core.tasks.embedder import embed_blocks, name_precision

logger = logging.getLogger(__name__)


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

    The cells are embedded as those of the reference: of the same length, with the same seed. They
    are read, embedded and mapped block by block: of all of them obs alone is in memory.

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
    with run_record(folder / "run.json", described) as run:
        reference = open_index(index_folder, threads=threads)
        ckpt = load_checkpoint(model_folder, embed.device)
        _compare_precision(ckpt, reference, embed)
        transfer = LabelTransfer(reference, settings, terms)
        cells = DatasetCells(Path(dataset), ckpt.vocab, min_matched=embed.min_matched)
        with closing(cells):
            truth_Q = _truth(cells, settings.label_column)
            ours, unknown_share = _map_cells(cells, truth_Q, transfer, ckpt, embed, folder, terms)
            run |= {
                "model": ckpt.digest,
                "corpora": reference.manifest["corpora"],
                "n_cells": len(truth_Q),
                "unknown_share": unknown_share,
                "calibration": transfer.report,
                "scores": {},
            }
            known_Q = truth_Q != UNKNOWN
            if known_Q.any():
                baselines = _predict_baselines(cells, ckpt, sources, settings, seed)
                run["scores"] = {
                    name: score_mapping(prediction, truth_Q, known_Q, terms)
                    for name, prediction in {"scgpt": ours, **baselines}.items()
                }
                logger.info("%s: %s", Path(dataset).stem, run["scores"])
    shutil.rmtree(folder / "parts", ignore_errors=True)


def _compare_precision(ckpt: Checkpoint, reference: Reference, embed: EmbedSettings) -> None:
    """Warn where query and reference are multiplied in formats that round otherwise."""
    ours, theirs = name_precision(ckpt, embed.precision), reference.manifest["precision"]
    if ours != theirs:
        logger.warning(
            "the reference was embedded in %s, the query is in %s: distances between them have the "
            "rounding of both; set embed.precision to %s",
            theirs, ours, theirs,
        )  # fmt: skip


def _truth(cells: DatasetCells, column: str) -> NDArray[np.object_]:
    """Give the true labels of the cells, `UNKNOWN` where the data set has none."""
    if column not in cells.columns:
        return np.full(len(cells.names), UNKNOWN, object)
    return _texts(cells.column(column))


def _texts(labels: pa.DictionaryArray | pa.ChunkedArray) -> NDArray[np.object_]:
    """Texts of coded labels, each in memory once; `UNKNOWN` where there is none."""
    return np.asarray(labels.to_pandas().astype(object).fillna(UNKNOWN).to_numpy())


def _map_cells(
    cells: DatasetCells,
    truth_Q: NDArray[np.object_],
    transfer: LabelTransfer,
    ckpt: Checkpoint,
    embed: EmbedSettings,
    folder: Path,
    ontology: Ontology,
) -> tuple[Prediction, float]:
    """Embed and map block by block, into two files; give what is scored, and the unknown share."""
    n_cells = len(cells.names)
    embedded = embed_blocks(
        cells.blocks(),
        ckpt,
        **transfer.reference.manifest["settings"],
        batch_size=embed.batch_size,
        precision=embed.precision,
        n_cells=n_cells,
        parts=folder / "parts",
    )
    scored: list[pa.Table] = []
    with ExitStack() as stack:
        table_file, emb_file = (
            stack.enter_context(whole(folder / name))
            for name in ("mapping.parquet", "embedding.h5ad")
        )
        emb_QD = stack.enter_context(_embedding_file(emb_file, cells.names, ckpt.config.width))
        writer = None
        first = 0
        for emb_BD in embedded:
            block = slice(first, first + len(emb_BD))
            emb_QD[block] = emb_BD
            mapped = transfer.map(list(cells.names[block]), emb_BD, model=ckpt.digest)
            table = _add_truth(mapped, truth_Q[block], ontology)
            writer = writer or stack.enter_context(pq.ParquetWriter(table_file, table.schema))
            writer.write_table(table)
            named = mapped["predicted"].combine_chunks().dictionary_encode()
            scored.append(mapped.select(["confidence", "unknown"]).append_column("label", named))
            first = block.stop
            logger.info("%d of %d cells mapped", first, n_cells)
    found = pa.concat_tables(scored).unify_dictionaries()
    prediction = Prediction(_texts(found["label"]), found["confidence"].to_numpy())
    return prediction, float(found["unknown"].to_numpy().mean())


@contextmanager
def _embedding_file(path: Path, names: pd.Index, width: int) -> Iterator[h5py.Dataset]:
    """Yield the embedding of an h5ad, (Q, D), to be filled block by block."""
    ad.AnnData(obs=pd.DataFrame(index=names)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        emb_QD = file["obsm"].create_dataset(EMBEDDING, (len(names), width), np.float32)
        emb_QD.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        yield emb_QD


def score_mapping(
    prediction: Prediction,
    truth_Q: NDArray[Any],
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
    truth_codes, names = pd.factorize(truth)
    f1 = f1_score(
        truth_codes,
        np.where(right, truth_codes, pd.Index(names).get_indexer(predicted)),
        labels=np.arange(len(names)),
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
    predicted_Q: NDArray[Any], truth_Q: NDArray[Any], ontology: Ontology
) -> NDArray[np.bool_]:
    """Whether a prediction is the true label or a kind of it; each pair is looked up once."""
    predicted_codes, predicted = pd.factorize(predicted_Q)
    truth_codes, truth = pd.factorize(truth_Q)
    pairs, pair_Q = np.unique(predicted_codes * len(truth) + truth_codes, return_inverse=True)
    right = [ontology.is_kind_of(predicted[p // len(truth)], truth[p % len(truth)]) for p in pairs]
    return np.array(right, bool)[pair_Q]


def _add_truth(mapped: pa.Table, truth_Q: NDArray[np.object_], ontology: Ontology) -> pa.Table:
    predicted_Q = mapped["predicted"].fill_null(UNKNOWN).to_numpy()
    unknown_Q, right_Q = truth_Q == UNKNOWN, _is_right(predicted_Q, truth_Q, ontology)
    mapped = mapped.append_column(LABEL, pa.array(truth_Q, pa.string(), mask=unknown_Q))
    return mapped.append_column("right", pa.array(right_Q, pa.bool_(), mask=unknown_Q))


def _predict_baselines(
    query: DatasetCells,
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
    genes = np.unique(np.concatenate([np.unique(cells.genes) for cells in query.blocks()]))
    baselines = Baselines(reference, label_N, genes, k=settings.neighbours, seed=seed)
    parts = [baselines.predict(cells) for cells in query.blocks()]
    return {
        name: Prediction(*map(np.concatenate, zip(*(part[name] for part in parts), strict=True)))
        for name in parts[0]
    }
