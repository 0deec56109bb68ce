"""Gene programs: clusters of genes whose embeddings are alike, their activity and their meaning.

Programs of the model's embeddings stand beside those of co-expression, and beside random ones of
the same sizes.

Shapes: N cells, G genes, D width.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import NetworkSettings, ProgramSettings
from scgpt_core.data.cells import read_cells
from scgpt_core.keys import LABEL
from scgpt_core.neighbours import build_graph, cluster_graph, find_neighbours
from scgpt_core.networks.cells import (
    choose_variable,
    log_expression,
    match_genes_of,
    named_genes,
    sample_rows,
)
from scgpt_core.networks.embeddings import (
    coexpression_embeddings,
    contextual_embeddings,
    static_embeddings,
)
from scgpt_core.networks.gene_sets import GeneSets, enrich, read_gene_sets
from scgpt_core.runs import run_record, write_parquet

STATIC, CONTEXTUAL, COEXPRESSION, RANDOM = "static", "contextual", "coexpression", "random"
SOURCES: Final = (STATIC, CONTEXTUAL, COEXPRESSION, RANDOM)
"""What programs are made of: two kinds of embeddings of the model, and two baselines."""
SIGNIFICANT: Final = 0.05
"""q below which a gene set is called enriched."""
_RANDOM_DRAWS = 20

logger = logging.getLogger(__name__)


class Programs(NamedTuple):
    """Gene programs of a data set by every source."""

    genes: pd.DataFrame
    """source, program, gene; programs of a source are numbered from "1", the greatest first."""
    activity: pd.DataFrame
    """source (but the random one), program, label, activity: mean score of a type's cells, as
    `sc.tl.score_genes` has it: mean log expression of the program's genes less that of random genes
    that are expressed as much."""
    enrichment: pd.DataFrame
    """source, and the columns of `enrich`."""
    scores: pd.DataFrame
    """Tidy: source, metric, value. "programs", "genes" (in programs), "enriched share" (of the
    programs, with a gene set of q < 0.05), "enriched sets" (how many different ones). The random
    source has their means over 20 draws."""


def find_dataset_programs(
    dataset: str | Path,
    model_folder: str | Path,
    output_folder: str | Path,
    *,
    gene_sets: str | Path,
    settings: NetworkSettings,
    seed: int,
) -> None:
    """Write `genes`, `activity`, `enrichment` and `scores` of programs as parquet, and `run.json`.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`.
    gene_sets
        As `read_gene_sets` reads them.
    """
    folder = Path(output_folder)
    used = settings.model_dump(mode="json", include={"programs", "min_matched", "device"})
    with run_record(folder / "run.json", {**used, "seed": seed}) as run:
        sets = read_gene_sets(gene_sets)
        ckpt = load_checkpoint(model_folder, settings.device)
        found = find_programs(ad.read_h5ad(dataset), ckpt, sets, settings, seed=seed)
        for name, table in found._asdict().items():
            write_parquet(folder / f"{name}.parquet", table)
        run["model"] = ckpt.digest


def find_programs(
    adata: ad.AnnData,
    ckpt: Checkpoint,
    gene_sets: GeneSets,
    settings: NetworkSettings,
    *,
    seed: int,
) -> Programs:
    """Cluster the variable genes of a data set by each source's vectors.

    A source without a cluster of `min_genes` genes has no programs: scores of 0, and no rows in the
    other tables.

    Parameters
    ----------
    adata
        Raw counts, with types in ``obs["label"]``.

    Raises
    ------
    ValueError
        Where too few of the counts have a token.
    """
    asked = settings.programs
    vectors, logged = _embed_genes(adata, ckpt, settings, seed=seed)
    symbols = logged.var_names.to_list()
    programs = {
        source: name_programs(
            cluster_genes(emb_GD, asked, seed=seed), symbols, min_genes=asked.min_genes
        )
        for source, emb_GD in vectors.items()
    }
    enrichment = {source: enrich(found, symbols, gene_sets) for source, found in programs.items()}
    scores = {s: _score(programs[s], enrichment[s]) for s in programs}
    for source in [s for s in programs if not programs[s]]:
        logger.warning(
            "%s: no cluster of the %d genes has %d of them, so there is no program: lower "
            "networks.programs.min_genes or resolution",
            source,
            len(symbols),
            asked.min_genes,
        )
    programs[RANDOM], enrichment[RANDOM], scores[RANDOM] = _draw_programs(
        programs[STATIC], symbols, gene_sets, seed=seed
    )
    for source, values in scores.items():
        logger.info("%s programs: %s", source, ", ".join(f"{k} {v:.2f}" for k, v in values.items()))
    return Programs(
        _tabulate(programs),
        pd.concat(
            [_activity(logged, programs[s], seed).assign(source=s) for s in vectors],
            ignore_index=True,
        ),
        pd.concat([table.assign(source=s) for s, table in enrichment.items()], ignore_index=True),
        pd.DataFrame(
            [(s, metric, value) for s in SOURCES for metric, value in scores[s].items()],
            columns=["source", "metric", "value"],
        ),
    )


def _embed_genes(
    adata: ad.AnnData, ckpt: Checkpoint, settings: NetworkSettings, *, seed: int
) -> tuple[dict[str, NDArray[np.float32]], ad.AnnData]:
    """Vectors of the chosen genes by source (G, D), and their log expression, named by symbol."""
    match = match_genes_of(adata, ckpt.vocab, settings.min_matched)
    named_G = named_genes(match, ckpt.vocab)
    chosen_G = choose_variable(adata, settings.programs.n_genes, named_G)
    token_ids = match.ids[chosen_G]
    rows = sample_rows(adata, settings.programs.max_cells, seed=seed)
    contextual_GD = contextual_embeddings(
        read_cells(adata[rows], match.ids),
        ckpt,
        token_ids,
        max_tokens=settings.programs.max_tokens,
        seed=seed,
    )
    seen_G = np.isfinite(contextual_GD).all(1)
    logged = log_expression(adata)[:, chosen_G][:, seen_G].copy()
    logged.var_names = [ckpt.vocab.symbols[token] for token in token_ids[seen_G]]
    vectors = {
        STATIC: static_embeddings(ckpt, token_ids[seen_G]),
        CONTEXTUAL: contextual_GD[seen_G],
        COEXPRESSION: coexpression_embeddings(logged, seed=seed),
    }
    return vectors, logged


def cluster_genes(
    emb_GD: NDArray[np.float32], settings: ProgramSettings, *, seed: int
) -> NDArray[np.int64]:
    """Leiden clusters of the cosine nearest-neighbour graph of genes: (G,).

    What all genes have in common is taken off first: it says nothing of who is near whom.
    """
    centred_GD = emb_GD - emb_GD.mean(0)
    unit_GD = centred_GD / np.linalg.norm(centred_GD, axis=1, keepdims=True).clip(1e-12)
    # Of unit vectors, the nearest are those of the greatest cosine.
    found = find_neighbours(unit_GD, min(settings.neighbours, len(unit_GD)))
    return cluster_graph(build_graph(*found), settings.resolution, seed=seed)


def name_programs(
    cluster_G: NDArray[np.int64], genes: list[str], *, min_genes: int
) -> dict[str, list[str]]:
    """Genes by program, "1" the greatest; clusters of fewer than `min_genes` genes are none."""
    labels, sizes = np.unique(cluster_G, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    kept = [labels[i] for i in order if sizes[i] >= min_genes]
    return {
        str(number): [genes[g] for g in np.flatnonzero(cluster_G == label)]
        for number, label in enumerate(kept, start=1)
    }


def _activity(logged: ad.AnnData, programs: Mapping[str, list[str]], seed: int) -> pd.DataFrame:
    cells, scores = logged.copy(), pd.DataFrame(index=logged.obs_names)
    for program, genes in programs.items():
        sc.tl.score_genes(cells, genes, score_name="score", random_state=seed)
        scores[program] = cells.obs["score"].to_numpy()
    mean = scores.groupby(logged.obs[LABEL].astype(str).to_numpy()).mean()
    mean.index.name = "label"
    return mean.reset_index().melt("label", var_name="program", value_name="activity")


def _score(programs: Mapping[str, list[str]], enrichment: pd.DataFrame) -> dict[str, float]:
    hits = enrichment[enrichment["q"] < SIGNIFICANT]
    return {
        "programs": len(programs),
        "genes": sum(map(len, programs.values())),
        "enriched share": hits["program"].nunique() / max(len(programs), 1),
        "enriched sets": hits["gene_set"].nunique(),
    }


def _draw_programs(
    programs: Mapping[str, list[str]], genes: list[str], gene_sets: GeneSets, *, seed: int
) -> tuple[dict[str, list[str]], pd.DataFrame, dict[str, float]]:
    """Random programs of these sizes: those of the first draw, and mean scores of all draws."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([len(members) for members in programs.values()], dtype=int)
    drawn, tables, scores = [], [], []
    for _ in range(_RANDOM_DRAWS):
        parts = np.split(rng.permutation(genes), ends)[:-1]  # the last is in no program
        drawn.append({name: part.tolist() for name, part in zip(programs, parts, strict=True)})
        tables.append(enrich(drawn[-1], genes, gene_sets))
        scores.append(_score(drawn[-1], tables[-1]))
    mean = {metric: float(np.mean([score[metric] for score in scores])) for metric in scores[0]}
    return drawn[0], tables[0], mean


def _tabulate(programs: Mapping[str, Mapping[str, list[str]]]) -> pd.DataFrame:
    rows = [
        (source, program, gene)
        for source in SOURCES
        for program, genes in programs[source].items()
        for gene in genes
    ]
    return pd.DataFrame(rows, columns=["source", "program", "gene"])
