"""Who a cell is: one int64, from which everything that is drawn for the cell is seeded."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cell_identity(names: Iterable[Any]) -> NDArray[np.int64]:
    """Identities of cells, equal on every machine and in every subset.

    Parameters
    ----------
    names
        ``soma_joinid`` integers, which are taken as they are, or cell names (``obs_names``), of
        which the first 64 bits of their BLAKE2b hash are taken.

    Returns
    -------
    int64 array, one identity a cell.

    Raises
    ------
    ValueError
        Where two cells have one name, or names are neither integers nor strings.
    """
    names_N = names if isinstance(names, np.ndarray) else np.asarray(list(names))
    if names_N.dtype.kind in "iu" or names_N.size == 0:
        return names_N.astype(np.int64)
    texts = names_N.tolist()
    if not all(isinstance(text, str) for text in texts):
        message = f"cell names are {names_N.dtype}, where strings or soma_joinid integers are due"
        raise ValueError(message)
    if len(set(texts)) < len(texts):
        name, times = Counter(texts).most_common(1)[0]
        message = (
            f"cell name {name!r} occurs {times} times: names seed what is drawn for a cell, "
            "make them unique (adata.obs_names_make_unique())"
        )
        raise ValueError(message)
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<i8").astype(np.int64)


def digest_cells(cell_ids: NDArray[np.int64]) -> str:
    """Hex SHA-256 of the identities (N,) of cells, in their order."""
    return hashlib.sha256(cell_ids.astype("<i8").tobytes()).hexdigest()
