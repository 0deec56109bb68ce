"""Label transfer by several encoders, beside classifiers of the counts: `make bench-mapping`.

MODEL=FOLDER names the model, that of the demo where left out. Each encoder gives the embeddings,
and the index, the vote and the scores are those of the pipeline. Novelty is the mean AUROC over
cell types that both sides have: each is left out of the reference in turn, with all its kinds, and
its cells are to be told from the rest of the query.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import IndexSettings, MappingSettings
from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.genes import match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.labels import harmonise_labels
from scgpt_core.index import (
    LabelTransfer,
    Ontology,
    build_index,
    open_index,
    read_ontology,
    write_embeddings,
)
from scgpt_core.index.baselines import Prediction, predict_baselines
from scgpt_core.index.query import score_mapping
from scgpt_core.keys import CELL_TYPE, DATASET_ID, SOMA_JOINID, UNKNOWN
from scgpt_core.model import ScGPT
from scgpt_core.runs import git_commit, start_logging, write_json
from scgpt_core.tasks.embedding import embed_cells

RESOURCES = Path("resources")
MODEL = Path(os.environ.get("MODEL", "results/models/demo"))
SETTINGS = MappingSettings(report_columns=())
INDEX = IndexSettings(recall_queries=100)
MIN_NOVEL = 20
MAX_COUNTS = 1000
"""Of a cell, as the demo embeds."""

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a method says of every query."""

    label_Q: NDArray[np.str_]
    confidence_Q: NDArray[np.float64]
    novelty_Q: NDArray[np.float64]


Method = Callable[[NDArray[np.bool_]], dict[str, Answer]]
"""Answers by name, of some of the reference's cells."""
Encoder = Callable[[ad.AnnData], NDArray[np.float32]]


def read_cells(
    name: str, label: str, batch: str | None = None, *, encoders: Mapping[str, Encoder]
) -> ad.AnnData:
    """Read cells of `resources/`, labelled as in the Cell Ontology, and embed them (obsm)."""
    cells = ad.read_h5ad(RESOURCES / f"cells/{name}.h5ad")
    cells.X = csr_matrix(cells.X)
    types = harmonise_labels(cells.obs[label], RESOURCES / "cell_types.tsv").names
    dataset = cells.obs[batch].astype(str) if batch else name
    obs = pd.DataFrame({CELL_TYPE: types, DATASET_ID: dataset}, index=cells.obs_names)
    cells = ad.AnnData(cells.X, obs=obs, var=cells.var)
    for title, encode in encoders.items():
        cells.obsm[title] = encode(cells)
        log.info("%s: embedded by %s", name, title)
    return cells


def read_transfers(encoders: Mapping[str, Encoder]) -> dict[str, tuple[ad.AnnData, ad.AnnData]]:
    """Read reference and query of each transfer, by its name."""
    read = partial(read_cells, encoders=encoders)
    zheng = read("pbmc_zheng_facs", "cell_type")
    tenx = read("pbmc_10x_3chem_unlabelled", "cell_type_auto", "batch")
    transfers = {
        "zheng -> bremsc": (zheng, read("pbmc_citeseq_bremsc", "cell_type")),
        "zheng + 10x -> pbmc3k": (
            ad.concat([zheng, tenx], index_unique="-"),
            read("pbmc3k_160_balanced", "cell_type"),
        ),
    }
    symphony = read("pbmc_symphony_3tech", "cell_type", "batch")
    for technology in symphony.obs[DATASET_ID].unique():
        held = (symphony.obs[DATASET_ID] == technology).to_numpy()
        pair = symphony[~held].copy(), symphony[held].copy()
        transfers[f"symphony, others -> {technology}"] = pair
    return transfers


def score_transfer(
    reference: ad.AnnData, query: ad.AnnData, methods: Sequence[Method], ontology: Ontology
) -> dict[str, dict[str, float]]:
    """Give scores of `score_mapping` and the AUROC of novelty, by the method's name."""
    labels = reference.obs[CELL_TYPE].to_numpy(str)
    truth = query.obs[CELL_TYPE].to_numpy(str)
    known = truth != UNKNOWN
    scores: dict[str, dict[str, float]] = {}
    aurocs: dict[str, list[float]] = {}
    for method in methods:
        for name, answer in method(np.ones(len(labels), bool)).items():
            prediction = Prediction(answer.label_Q, answer.confidence_Q)
            scores[name] = score_mapping(prediction, truth, known, ontology)
    for left_out in np.intersect1d(truth[known], labels):
        new = np.array([ontology.is_kind_of(name, left_out) for name in truth[known]])
        kept = np.array([not ontology.is_kind_of(name, left_out) for name in labels])
        if new.sum() < MIN_NOVEL or new.all() or len(np.unique(labels[kept])) < 3:
            continue
        for method in methods:
            for name, answer in method(kept).items():
                auroc = roc_auc_score(new, answer.novelty_Q[known])
                aurocs.setdefault(name, []).append(float(auroc))
    for name, values in aurocs.items():
        scores[name] |= {"novelty_auroc": float(np.mean(values)), "left_out": len(values)}
    return scores


def map_embedded(reference: ad.AnnData, query: ad.AnnData, ontology: Ontology) -> Method:
    """Label transfer of the pipeline, by each embedding."""

    def answer(kept: NDArray[np.bool_]) -> dict[str, Answer]:
        answers = {}
        for name, query_emb in query.obsm.items():
            reference_emb = reference.obsm[name][kept]
            table = transfer_labels(reference.obs[kept], reference_emb, query_emb, ontology)
            answers[name] = Answer(
                np.array(table["predicted"].fill_null(UNKNOWN).to_pylist()),
                table["confidence"].to_numpy(),
                table["novelty"].to_numpy(),
            )
        return answers

    return answer


def classify_counts(reference: ad.AnnData, query: ad.AnnData, ckpt: Checkpoint) -> Method:
    """Classifiers of counts, to which a cell is novel where they are not sure."""
    labels, query_cells = reference.obs[CELL_TYPE].to_numpy(str), by_token(query, ckpt)

    def answer(kept: NDArray[np.bool_]) -> dict[str, Answer]:
        chosen = kept & (labels != UNKNOWN)
        found = predict_baselines(
            by_token(reference[chosen], ckpt),
            labels[chosen],
            query_cells,
            k=SETTINGS.neighbours,
            seed=0,
        )
        return {name: Answer(*of, 1 - of.confidence_Q) for name, of in found.items()}

    return answer


def transfer_labels(
    obs: pd.DataFrame,
    reference_emb: NDArray[np.float32],
    query_emb: NDArray[np.float32],
    ontology: Ontology,
) -> pa.Table:
    """Index the reference and map the query."""
    with TemporaryDirectory() as folder:
        columns = pa.Table.from_pandas(obs, preserve_index=False)
        columns = columns.append_column(SOMA_JOINID, pa.array(np.arange(len(obs))))
        origin = {"model": "encoder", "corpus": "reference", "settings": {}}
        file = Path(folder) / "shard_0.arrow"
        write_embeddings(file, columns, [reference_emb], origin=origin)
        build_index([file], Path(folder) / "index", settings=INDEX)
        transfer = LabelTransfer(open_index(Path(folder) / "index"), SETTINGS, ontology)
        names = [str(i) for i in range(len(query_emb))]
        return transfer.map(names, query_emb, model="encoder")


def make_encoders(ckpt: Checkpoint) -> dict[str, Encoder]:
    """Make encoders by name: the model, at one depth and not, and its size with random weights."""
    torch.manual_seed(0)
    random = replace(ckpt, model=ScGPT(ckpt.config, ckpt.model.attention).eval())
    embed = partial(embed_cells, max_counts=MAX_COUNTS)
    return {
        f"scgpt, zero-shot, {MAX_COUNTS:,} counts": partial(embed, ckpt=ckpt),
        "scgpt, zero-shot, all counts": lambda cells: embed_cells(cells, ckpt),
        "scgpt, random weights": partial(embed, ckpt=random),
    }


def by_token(cells: ad.AnnData, ckpt: Checkpoint) -> Cells:
    """Take the counts of the genes that the model knows."""
    return cells_from_csr(
        cells.X.indptr,
        cells.X.indices,
        cells.X.data,
        token_ids=match_var(cells.var, ckpt.vocab).ids,
        cell_ids=cell_identity(cells.obs_names),
    )


def main() -> None:
    """Score every encoder and baseline on every transfer."""
    start_logging()
    ckpt = load_checkpoint(MODEL)
    ontology = read_ontology(RESOURCES / "cell_ontology.tsv")
    rows = []
    for name, (reference, query) in read_transfers(make_encoders(ckpt)).items():
        methods = [
            map_embedded(reference, query, ontology),
            classify_counts(reference, query, ckpt),
        ]
        scores = score_transfer(reference, query, methods, ontology)
        rows += [{"transfer": name, "method": method, **of} for method, of in scores.items()]
        log.info("%s: done", name)
    table = pd.DataFrame(rows)
    write_json(
        "results/bench/mapping.json",
        {
            "name": "mapping",
            "model": str(MODEL),
            "digest": ckpt.digest,
            "scores": rows,
            "commit": git_commit(),
        },
    )
    sys.stdout.write(table.round(3).to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
