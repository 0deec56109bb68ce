"""The vocabulary: which gene is which token."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from scgpt_core.keys import CLS, FEATURE_ID, FEATURE_NAME, N_CELLS, PAD, SPECIAL_TOKENS
from scgpt_core.runs import digest, read_json, write_json

if TYPE_CHECKING:  # machines that only train have no anndata
    from scgpt_core.data.partitions import Partition

logger = logging.getLogger(__name__)

_FORMAT = "scgpt-vocabulary-1"
_JSON_FIRST_BYTES = (b"{", b" ", b"\n", b"\t", b"\r")


class Vocabulary:
    """Tokens by id: the special tokens, and genes by Ensembl id or, in published models, by symbol.

    Parameters
    ----------
    tokens
        Token of each id.
    symbols
        Gene symbol of each id; None where the tokens are symbols themselves.

    Raises
    ------
    ValueError
        Where a token stands twice or a special token is missing.
    """

    def __init__(self, tokens: Sequence[str], symbols: Sequence[str] | None = None) -> None:
        self.tokens = list(tokens)
        self.symbols = list(tokens if symbols is None else symbols)
        self._id = {token: id_ for id_, token in enumerate(self.tokens)}
        if len(self._id) < len(self.tokens):
            token, times = Counter(self.tokens).most_common(1)[0]
            message = f"vocabulary: {token!r} is the token of {times} ids: give each its own"
            raise ValueError(message)
        if len(self.symbols) != len(self.tokens):
            message = f"vocabulary: {len(self.tokens)} tokens but {len(self.symbols)} symbols"
            raise ValueError(message)
        missing = [token for token in SPECIAL_TOKENS if token not in self._id]
        if missing:
            message = f"vocabulary: special tokens {', '.join(missing)} are missing: add them"
            raise ValueError(message)

    def __contains__(self, token: str) -> bool:
        return token in self._id

    @property
    def n_tokens(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.tokens)

    @property
    def pad_id(self) -> int:
        """Token id of ``<pad>``."""
        return self._id[PAD]

    @property
    def cls_id(self) -> int:
        """Token id of ``<cls>``."""
        return self._id[CLS]

    @property
    def gene_ids(self) -> NDArray[np.int32]:
        """Token ids of the genes, all but the special tokens: int32 (G,)."""
        special = [self._id[token] for token in SPECIAL_TOKENS]
        return np.setdiff1d(np.arange(self.n_tokens, dtype=np.int32), special)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokens, by id: what a model and its corpus must share."""
        return digest(self.tokens)

    def ids(self, tokens: Iterable[str]) -> NDArray[np.int32]:
        """Token ids (G,), -1 for what is no token; `match_genes` looks for names."""
        return np.fromiter((self._id.get(token, -1) for token in tokens), np.int32)

    def extend(self, tokens: Iterable[str]) -> "Vocabulary":
        """Vocabulary with those of the tokens that it lacks behind its own, whose ids stay."""
        new = [token for token in tokens if token not in self]
        return Vocabulary(self.tokens + new, self.symbols + new)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, whole or not at all."""
        write_json(path, {"format": _FORMAT, "tokens": self.tokens, "symbols": self.symbols})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Vocabulary of a JSON file: ours, or a published flat ``{token: id}``.

        A published file without special tokens gets them at the end, as the published code does.

        Raises
        ------
        ValueError
            Where the file is a pickle, is cut off, or its ids are not 0, 1, 2, ... without gaps.
        """
        with Path(path).open("rb") as file:
            first = file.read(1)
        if first not in _JSON_FIRST_BYTES:
            message = (
                f"{path} is no JSON object. A pickled vocabulary is refused: a pickle can run any "
                "code when it is loaded. Ask its author for vocab.json, an object of tokens and ids"
            )
            raise ValueError(message)
        content = read_json(path)
        try:
            if content.get("format") == _FORMAT:
                return cls(content["tokens"], content["symbols"])
            return cls(_tokens_of_published(content))
        except (KeyError, TypeError, ValueError) as error:
            message = f"{path}: {error}"
            raise ValueError(message) from error


def _tokens_of_published(ids: Mapping[str, Any]) -> list[str]:
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        message = "ids are not 0, 1, 2, ... without gaps, as in a published vocab.json"
        raise ValueError(message)
    return tokens + [token for token in SPECIAL_TOKENS if token not in ids]


def build_vocab(
    partitions: "Iterable[Partition]",
    output: str | Path,
    *,
    min_cells: int,
    published: str | Path | None = None,
) -> Vocabulary:
    """Write and return the vocabulary of a corpus.

    Reads no counts: each partition carries in how many of its cells a gene is found.

    Parameters
    ----------
    partitions
        All partitions of the corpus; they are read one by one.
    output
        The JSON file to write.
    min_cells
        Genes that are found in fewer cells of the corpus get no token.
    published
        A vocabulary to take as it is (to go on from a published model); the genes of the corpus
        then change nothing.

    Returns
    -------
    Special tokens first, then genes by Ensembl id.

    Raises
    ------
    ValueError
        Where no gene is left.
    """
    if published is not None:
        vocab = Vocabulary.load(published)
        vocab.save(output)
        logger.info("vocabulary of %s: %d tokens", published, vocab.n_tokens)
        return vocab
    n_cells: Counter[str] = Counter()
    symbols: dict[str, str] = {}
    for partition in partitions:
        genes = partition.genes
        n_cells.update(dict(zip(genes[FEATURE_ID], genes[N_CELLS].tolist(), strict=True)))
        symbols.update(zip(genes[FEATURE_ID], genes[FEATURE_NAME], strict=True))
    kept = sorted(gene for gene, cells in n_cells.items() if cells >= min_cells)
    if not kept:
        message = f"no gene is found in {min_cells} cells: lower shards.min_cells_per_gene"
        raise ValueError(message)
    vocab = Vocabulary([*SPECIAL_TOKENS, *kept], [*SPECIAL_TOKENS, *(symbols[g] for g in kept)])
    vocab.save(output)
    logger.info(
        "vocabulary: %d of %d genes are in %d cells or more", len(kept), len(n_cells), min_cells
    )
    return vocab
