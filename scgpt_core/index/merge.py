"""Finished references as the beginning of another: their cells need not be added again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss

from scgpt_core.index.embeddings import Embeddings
from scgpt_core.index.reference import open_index


def merge_references(folders: Sequence[str | Path], embeddings: Embeddings) -> Any:
    """Index of the cells of several references, one after the other.

    Parameters
    ----------
    folders
        References whose lists and codes are the same: exact ones, or built ``like`` each other.
    embeddings
        Of the reference that is to be built; its first cells are those of `folders`.

    Raises
    ------
    ValueError
        Where `embeddings` does not begin with these cells, or model, precision, lists or codes
        differ.
    """
    references = [open_index(folder) for folder in folders]
    first, *others = references
    corpora: dict[str, int] = {}
    for folder, reference in zip(folders, references, strict=True):
        _check_origin(folder, reference.manifest, embeddings)
        corpora |= reference.manifest["corpora"]
        if reference.manifest["trained"] != first.manifest["trained"]:
            message = (
                f"{folder} and {folders[0]} were trained apart: their codes mean different things "
                "and cannot be merged. Set index.combine to update, or build one like the other"
            )
            raise ValueError(message)
    expected = embeddings.origin["corpora"]
    if list(corpora.items()) != list(expected.items())[: len(corpora)]:
        message = (
            f"{', '.join(map(str, folders))} hold other cells than the embeddings begin with "
            f"(corpora and cells: {corpora}, where {expected} are due): build them again"
        )
        raise ValueError(message)
    for other in others:
        # An exact index has no ids to shift: its cells are numbered by their order.
        has_ids = faiss.try_extract_index_ivf(first.index) is not None
        first.index.merge_from(other.index, first.index.ntotal if has_ids else 0)
    return first.index


def empty_like(folder: str | Path, embeddings: Embeddings) -> Any:
    """Index without cells that has the lists and codes of a reference.

    Raises
    ------
    ValueError
        Where the reference is of another model or precision than `embeddings`.
    """
    reference = open_index(folder)
    _check_origin(folder, reference.manifest, embeddings)
    reference.index.reset()
    return reference.index


def _check_origin(folder: str | Path, manifest: dict[str, Any], embeddings: Embeddings) -> None:
    for key in ("model", "precision", "settings"):
        if manifest.get(key) != embeddings.origin.get(key):
            message = (
                f"{folder} is of {key} {manifest.get(key)}, the embeddings of "
                f"{embeddings.origin.get(key)}: cells of both cannot be in one reference"
            )
            raise ValueError(message)
