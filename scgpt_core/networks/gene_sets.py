"""Gene sets and known regulation, from local files, and whether genes are rich in them.

Shapes: P programs, S gene sets, G genes of the background.
"""

import gzip
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom, mannwhitneyu

GeneSets = Mapping[str, Collection[str]]
"""Genes by the name of their set, or of the factor that regulates them."""

LEAST_GENES: Final = 5
"""Of a set in the background: smaller ones are not tested."""
MOST_GENES: Final = 500
"""Of a set in the background: greater ones say little."""
RANKED: Final = ("gene_set", "set_genes", "auc", "p", "q", "rank")
"""Columns of `rank_sets`."""
_REGULATION: Final = ("source", "target", "weight")


def read_gene_sets(path: str | Path) -> dict[str, frozenset[str]]:
    """Gene symbols by the name of their set.

    Parameters
    ----------
    path
        A .gmt file, may be gzipped: name, id or description, and genes, separated by tabs.

    Raises
    ------
    ValueError
        Where a line is not of this form.
    """
    sets = {}
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rt") as file:
        for number, line in enumerate(file, start=1):
            name, *rest = line.rstrip("\n").split("\t")
            if len(rest) < 2:
                message = f"{path}, line {number}: not name, description and genes of a gmt file"
                raise ValueError(message)
            sets[name] = frozenset(rest[1:])
    return sets


def read_regulation(path: str | Path) -> pd.DataFrame:
    """Known edges: source, target, weight (1: activates, -1: represses); each pair once.

    Parameters
    ----------
    path
        A csv of these columns, may be gzipped, as CollecTRI (Müller-Dott et al. 2023) gives it.

    Raises
    ------
    ValueError
        Where a column is missing.
    """
    table = pd.read_csv(path)
    if missing := [name for name in _REGULATION if name not in table]:
        message = f"{path} has no column {', '.join(missing)}; it has: {', '.join(table.columns)}"
        raise ValueError(message)
    edges = table[list(_REGULATION)].drop_duplicates(["source", "target"])
    return edges[edges["source"] != edges["target"]].reset_index(drop=True)


def read_regulators(path: str | Path) -> frozenset[str]:
    """Symbols of transcription factors: the column `Symbol` of a csv.

    Raises
    ------
    ValueError
        Where there is no such column.
    """
    table = pd.read_csv(path)
    if "Symbol" not in table:
        message = f"{path} has no column 'Symbol'; it has: {', '.join(table.columns)}"
        raise ValueError(message)
    return frozenset(table["Symbol"])


def targets_by_regulator(edges: pd.DataFrame) -> dict[str, frozenset[str]]:
    """Targets of each source of `read_regulation`, as gene sets."""
    return {str(name): frozenset(part["target"]) for name, part in edges.groupby("source")}


def enrich(programs: GeneSets, background: Sequence[str], gene_sets: GeneSets) -> pd.DataFrame:
    """Which gene sets are over-represented in which programs, by the hypergeometric test.

    Parameters
    ----------
    programs
        Genes of the background, by program.
    background
        All genes that could have been in a program.
    gene_sets
        What is looked for: those of 5 to 500 genes of the background.

    Returns
    -------
    A row for each program and set that share genes, best first: program, gene_set, overlap,
    program_genes, set_genes (in the background), p, q, genes (shared, separated by blanks). q is
    corrected over all programs and sets, also those that share no gene (Benjamini and Hochberg).
    """
    names, member_SG = _membership(gene_sets, background)
    tested_S = (member_SG.sum(1) >= LEAST_GENES) & (member_SG.sum(1) <= MOST_GENES)
    names, member_SG = names[tested_S], member_SG[tested_S]
    titles, member_PG = _membership(programs, background)
    size_S, size_P = member_SG.sum(1), member_PG.sum(1)
    overlap_PS = member_PG.astype(np.int64) @ member_SG.T.astype(np.int64)
    p_PS = hypergeom.sf(overlap_PS - 1, len(background), size_S[None], size_P[:, None])
    q_PS = _correct(p_PS)
    place_P, place_S = np.nonzero(overlap_PS)
    symbols = np.asarray(background)
    table = pd.DataFrame(
        {
            "program": titles[place_P],
            "gene_set": names[place_S],
            "overlap": overlap_PS[place_P, place_S],
            "program_genes": size_P[place_P],
            "set_genes": size_S[place_S],
            "p": p_PS[place_P, place_S],
            "q": q_PS[place_P, place_S],
            "genes": [
                " ".join(symbols[member_PG[p] & member_SG[s]])
                for p, s in zip(place_P, place_S, strict=True)
            ],
        }
    )
    return table.sort_values(["p", "program", "gene_set"], ignore_index=True)


def rank_sets(
    score_G: NDArray[np.floating], genes: Sequence[str], gene_sets: GeneSets
) -> pd.DataFrame:
    """Which gene sets have greater scores than the other genes, by the test of Mann and Whitney.

    Parameters
    ----------
    score_G
        Of each gene, greater for what is looked for.
    genes
        Their symbols.
    gene_sets
        Those of 5 to 500 of these genes are tested.

    Returns
    -------
    A row a set, best first: gene_set, set_genes (among `genes`), auc (chance that a gene of the
    set has a greater score than another), p (one-sided), q (Benjamini and Hochberg), rank (from 1).
    """
    names, member_SG = _membership(gene_sets, genes)
    tested_S = (member_SG.sum(1) >= LEAST_GENES) & (member_SG.sum(1) <= MOST_GENES)
    rows = []
    for name, member_G in zip(names[tested_S], member_SG[tested_S], strict=True):
        found = mannwhitneyu(score_G[member_G], score_G[~member_G], alternative="greater")
        n = int(member_G.sum())
        rows.append((name, n, found.statistic / (n * (len(genes) - n)), found.pvalue))
    table = pd.DataFrame(rows, columns=list(RANKED[:4]))
    table["q"] = _correct(table["p"].to_numpy(dtype=float))
    table = table.sort_values(["p", "gene_set"], ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1))


def _membership(sets: GeneSets, genes: Sequence[str]) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Names of the sets (S,) and whether a gene is in a set (S, G)."""
    place = {gene: i for i, gene in enumerate(genes)}
    member_SG = np.zeros((len(sets), len(genes)), np.bool_)
    for row, members in enumerate(sets.values()):
        member_SG[row, [place[gene] for gene in members if gene in place]] = True
    return np.array(list(sets), dtype=str), member_SG


def _correct(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Q values of Benjamini and Hochberg, of the shape of `p`."""
    if p.size == 0:
        return p
    q: NDArray[np.float64] = false_discovery_control(p.ravel()).reshape(p.shape)
    return q
