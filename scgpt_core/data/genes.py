"""Names of genes: which token of a vocabulary a name stands for, and how that is known."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import FEATURE_ID, SPECIAL_TOKENS

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

How = Literal[
    "token", "ensembl", "symbol", "previous", "alias", "ambiguous", "duplicate", "unknown"
]
"""How a name was matched, best first; the last three are not matched."""
HOWS: tuple[How, ...] = How.__args__  # type: ignore[attr-defined]
MATCHED = HOWS[:5]
LEAST_MATCHED: Final = 0.5
"""Share of the counts whose genes must have a token, where no setting says another."""

_EXAMPLES = 5  # of names that were not matched, in a report
_ENSEMBL = re.compile(r"(?:.+_)?(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?")
_UPPER_CASE_ORF = re.compile(r"(C[0-9XY]+)ORF(\d+)")
"""Open reading frames have the only human symbols with lower case, which some tools drop."""


@cache
def load_gene_table() -> pa.Table:
    """Human genes, one row an Ensembl id.

    Returns
    -------
    Columns ``gene_id`` (Ensembl, without version), ``symbol`` (GENCODE's, the Census's
    ``feature_name``), ``hgnc_symbol`` (approved; "" where HGNC has none), ``length`` (bases, of
    merged exons), ``biotype``, ``previous`` and ``aliases`` (lists of symbols, HGNC).
    """
    with as_file(files("scgpt_core.data") / "human_genes.parquet") as path:
        return pq.read_table(path)


@cache
def all_genes() -> Vocabulary:
    """All human genes: special tokens, then the rows of `load_gene_table` in their order."""
    table = load_gene_table()
    return Vocabulary(
        [*SPECIAL_TOKENS, *table["gene_id"].to_pylist()],
        [*SPECIAL_TOKENS, *table["symbol"].to_pylist()],
    )


@dataclass(frozen=True)
class GeneMatch:
    """What `match_genes` found; arrays run along the names (G)."""

    names: list[str]
    ids: NDArray[np.int32]
    """Token ids, -1 where the name has none; each token at most once."""
    how: list[How]

    @property
    def matched(self) -> NDArray[np.bool_]:
        """True where the name has a token: (G,)."""
        return self.ids >= 0

    def report(self) -> str:
        """One line: how many names matched how, with examples of those that did not."""
        tally = Counter(self.how)
        parts = [f"{tally[how]} by {how}" for how in MATCHED if tally[how]]
        for how in HOWS[len(MATCHED) :]:
            names = [name for name, h in zip(self.names, self.how, strict=True) if h == how]
            if names:
                more = ", ..." if len(names) > _EXAMPLES else ""
                parts.append(f"{len(names)} {how} ({', '.join(names[:_EXAMPLES])}{more})")
        return f"{int(self.matched.sum())} of {len(self.names)} genes matched: {'; '.join(parts)}"

    def require(
        self, min_share: float, counts_G: NDArray[np.number] | None = None, *, source: str = "data"
    ) -> None:
        """Stop where too little is matched.

        Parameters
        ----------
        min_share
            Least share of the counts (of the names, without `counts_G`) that must be matched.
        counts_G
            Total counts of each gene.
        source
            What the names are from, for the message.

        Raises
        ------
        ValueError
            With the share and the report.
        """
        weights_G = np.ones(len(self.names)) if counts_G is None else np.asarray(counts_G, float)
        share = float(weights_G[self.matched].sum() / max(weights_G.sum(), 1e-12))
        if share < min_share:
            what = "genes" if counts_G is None else "counts"
            message = (
                f"{source}: {share:.1%} of the {what} have a token in the vocabulary, "
                f"{min_share:.1%} are required. {self.report()}. Gene names must be human symbols "
                "or Ensembl ids, in var_names or in var['feature_id']"
            )
            raise ValueError(message)


def match_genes(
    names: Iterable[str], vocab: Vocabulary, *, symbols: Iterable[str] | None = None
) -> GeneMatch:
    """Token ids of gene names: symbols, Ensembl ids with or without version, old names.

    A name is looked up as a token, then as an Ensembl id, a current, a previous and an alias
    symbol; the first kind that knows it decides. A name that stands for several genes of the
    vocabulary is ambiguous and stays unmatched. Where several names lead to one token the best
    kind has it (the first name, among equals) and the others are duplicates.

    Parameters
    ----------
    names
        Gene names, in any mixture of kinds.
    vocab
        Keyed by Ensembl ids or by symbols.
    symbols
        A second name of each gene, for those whose first one is "" or leads nowhere.
    """
    names = [str(name) for name in names]
    symbols = names if symbols is None else [str(symbol) for symbol in symbols]
    names = [name or symbol for name, symbol in zip(names, symbols, strict=True)]
    ids = vocab.ids(names)
    ids = np.where(ids < 0, vocab.ids(symbols), ids)
    how: list[How] = ["token" if id_ >= 0 else "unknown" for id_ in ids]
    resolve = _resolver(vocab)
    in_use = all_genes()
    for place in np.flatnonzero(ids < 0).tolist():
        ids[place], how[place] = resolve(names[place])
        # An id in use says which gene it is; its symbol may be an alias of another one.
        if ids[place] < 0 and (ensembl_id(names[place]) or "") not in in_use:
            ids[place], how[place] = resolve(symbols[place])
    taken = set(vocab.ids(SPECIAL_TOKENS).tolist())
    for place in sorted(range(len(names)), key=lambda place: HOWS.index(how[place])):
        if ids[place] in taken:
            ids[place], how[place] = -1, "duplicate"
        elif ids[place] >= 0:
            taken.add(int(ids[place]))
    return GeneMatch(names, ids, how)


def match_var(var: "pd.DataFrame", vocab: Vocabulary) -> GeneMatch:
    """Token ids of the genes of an AnnData: by ``var[FEATURE_ID]`` where it is, and its index."""
    if FEATURE_ID not in var:
        return match_genes(var.index, vocab)
    return match_genes(var[FEATURE_ID], vocab, symbols=var.index)


def ensembl_id(name: str) -> str | None:
    """Ensembl gene id without version that a name is or ends with, else None."""
    found = _ENSEMBL.fullmatch(name)
    return found.group(1) if found else None


def _resolver(vocab: Vocabulary) -> Callable[[str], tuple[int, How]]:
    """Give the look-up of one name that is not a token."""
    id_of_gene, ids_of_symbol = _genes_of_vocab(vocab)
    gene_names = _gene_names()

    def resolve(name: str) -> tuple[int, How]:
        gene = ensembl_id(name)
        if gene is not None:
            return (id_of_gene[gene], "ensembl") if gene in id_of_gene else (-1, "unknown")
        name = _UPPER_CASE_ORF.sub(r"\1orf\2", name)
        if len(ids_of_symbol.get(name, ())) == 1:
            return ids_of_symbol[name][0], "symbol"
        for how, genes_of_name in gene_names:
            ids = {id_of_gene[gene] for gene in genes_of_name.get(name, ()) if gene in id_of_gene}
            if len(ids) == 1:
                return ids.pop(), how
            if ids:
                return -1, "ambiguous"
        return -1, "unknown"

    return resolve


@lru_cache(maxsize=2)
def _genes_of_vocab(vocab: Vocabulary) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Token id by Ensembl id, and token ids by the vocabulary's own symbols."""
    id_of_gene: dict[str, int] = {}
    ids_of_symbol: dict[str, list[int]] = {}
    late: list[tuple[int, str, int]] = []
    for id_ in vocab.gene_ids.tolist():
        token = vocab.tokens[id_]
        ids_of_symbol.setdefault(vocab.symbols[id_], []).append(id_)
        gene = ensembl_id(token)
        if gene is not None:
            id_of_gene[gene] = id_
            continue
        for rank, (_, genes_of_name) in enumerate(_gene_names()):
            if len(genes_of_name.get(token, ())) == 1:
                late.append((rank, genes_of_name[token][0], id_))
                break
    # A vocabulary of symbols may hold a gene under its current and an old name: the current wins.
    for _, gene, id_ in sorted(late):
        id_of_gene.setdefault(gene, id_)
    return id_of_gene, ids_of_symbol


@cache
def _gene_names() -> Sequence[tuple[How, Mapping[str, list[str]]]]:
    """Ensembl ids by name, for each kind of name, best kind first.

    HGNC's approved symbol stands for one gene; GENCODE gives some symbols to several.
    """
    table = load_gene_table()
    genes = table["gene_id"].to_pylist()
    kinds: tuple[tuple[How, str], ...] = (
        ("symbol", "hgnc_symbol"),
        ("symbol", "symbol"),
        ("previous", "previous"),
        ("alias", "aliases"),
    )
    found: list[tuple[How, Mapping[str, list[str]]]] = []
    for how, column in kinds:
        genes_of_name: dict[str, list[str]] = {}
        for gene, names in zip(genes, table[column].to_pylist(), strict=True):
            for name in [names] if isinstance(names, str) else names:
                if name:
                    genes_of_name.setdefault(name, []).append(gene)
        found.append((how, genes_of_name))
    return found
