"""What is known of genes beforehand: the gene sets that they stand in, as vectors.

Shapes: P perturbed or other genes, F features.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scgpt_core.data.genes import all_genes, match_genes

LEAST_GENES: Final = 5
MOST_GENES: Final = 500
"""Genes of a set: smaller ones say little that is shared, greater ones little that tells apart."""


def pathway_features(
    genes: Sequence[str], gene_sets: Mapping[str, Collection[str]]
) -> NDArray[np.float64]:
    """Membership of genes in sets, rarer sets counting more: (P, F), each row of length one or 0.

    Features are the sets of 5 to 500 genes that have at least two of these genes; a set of n genes
    weighs 1 / sqrt(n). A gene in none of them has a row of zeros.

    Parameters
    ----------
    genes
        Names in any spelling that `match_genes` knows.
    gene_sets
        Symbols by the name of their set.
    """
    used = {name: list(g) for name, g in gene_sets.items() if LEAST_GENES <= len(g) <= MOST_GENES}
    symbols = sorted({symbol for members in used.values() for symbol in members})
    row_of = {name: i for i, name in enumerate(genes)}
    token_P, token_M = _tokens(genes), dict(zip(symbols, _tokens(symbols), strict=True))
    row_of_token = {token: i for i, token in enumerate(token_P) if token >= 0}
    member_PF = np.zeros((len(genes), len(used)))
    for column, members in enumerate(used.values()):
        rows = {row_of.get(symbol, row_of_token.get(token_M[symbol])) for symbol in members}
        member_PF[[row for row in rows if row is not None], column] = len(members) ** -0.5
    member_PF = member_PF[:, (member_PF > 0).sum(0) >= 2]
    length_P1 = np.linalg.norm(member_PF, axis=1, keepdims=True)
    return np.asarray(member_PF / np.where(length_P1 > 0, length_P1, 1))


def _tokens(names: Sequence[str]) -> list[int]:
    return [int(token) for token in match_genes(names, all_genes()).ids]
