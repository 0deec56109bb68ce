"""A reference: an index, what is known of its cells, and the model and corpus that it is of.

Shapes: Q queries, S sampled cells, K neighbours, D width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.index.description import set_nprobe
from scgpt_core.index.embeddings import FloatArray, check_unit_rows
from scgpt_core.index.labels import Labels
from scgpt_core.index.neighbours import Neighbours, search
from scgpt_core.index.sample import Sample, read_sample
from scgpt_core.runs import read_json, sha256

Contents = TypeVar("Contents")

FILES: Final = ("index.faiss", "labels.arrow", "sample.arrow")
"""What `manifest.json` seals."""
SCHEMA: Final = 1
"""Version of what a manifest says and of how its files are laid out."""


class Reference(NamedTuple):
    """An opened reference: index, labels, and what the manifest says of them."""

    index: Any
    labels: Labels
    sample: Sample
    manifest: dict[str, Any]

    def search(
        self,
        query_QD: FloatArray,
        k: int,
        *,
        model: str,
        among: NDArray[np.uint8] | None = None,
    ) -> Neighbours:
        """Rows and cosines of the k nearest reference cells of each query, nearest first.

        Parameters
        ----------
        query_QD
            (Q, D) unit rows.
        k
            Neighbours of each; row -1 and cosine -inf where fewer were found.
        model
            Digest of the model that embedded the queries.
        among
            `bitmap` of the rows that may be found; all where left out.

        Raises
        ------
        ValueError
            Where the model or the width is another, there is no query, an embedding is broken, or
            the reference has fewer than k cells.
        """
        if model != self.manifest["model"]:
            message = (
                f"the queries were embedded by model {model[:12]}, the reference by "
                f"{self.manifest['model'][:12]}: embed the queries with the model of the reference"
            )
            raise ValueError(message)
        if query_QD.ndim != 2 or query_QD.shape[1] != self.manifest["width"]:
            wanted = f"(cells, {self.manifest['width']})"
            message = f"queries have shape {query_QD.shape}, where {wanted} is due"
            raise ValueError(message)
        if not len(query_QD):
            message = "there are no cells to map: the query is empty"
            raise ValueError(message)
        check_unit_rows(query_QD, "query")
        if k > self.manifest["n_cells"]:
            message = f"{k} neighbours of {self.manifest['n_cells']} reference cells: lower k"
            raise ValueError(message)
        return search(self.index, np.ascontiguousarray(query_QD, np.float32), k, among=among)


def open_index(
    folder: str | Path, *, nprobe: int | None = None, threads: int = 1, verify: bool = True
) -> Reference:
    """Open a reference that `build_index` wrote.

    Parameters
    ----------
    folder
        With `FILES` and manifest.json.
    nprobe
        Lists that a query visits; that of the manifest where left out.
    threads
        Of faiss, in this process.
    verify
        Read every file once to compare its SHA-256 with the manifest.

    Raises
    ------
    ValueError
        Where a file is missing, cut off, or not the one that the manifest was written for, or the
        reference is of another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name in FILES:
        _check_file(folder / name, manifest["sha256"][name] if verify else None)
    faiss.omp_set_num_threads(threads)
    index = _read(folder / FILES[0], lambda path: faiss.read_index(str(path)))
    set_nprobe(index, nprobe or manifest["nprobe"])
    labels = _read(folder / FILES[1], Labels)
    sample = _read(folder / FILES[2], read_sample)
    if not index.ntotal == len(labels) == manifest["n_cells"]:
        message = (
            f"{folder}: index of {index.ntotal} cells, labels of {len(labels)}, manifest of "
            f"{manifest['n_cells']}: they do not belong together. Run build_index again"
        )
        raise ValueError(message)
    return Reference(index, labels, sample, manifest)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read what `build_index` says of a reference.

    Raises
    ------
    ValueError
        Where there is no manifest, or it is of another format than `SCHEMA`.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        message = f"{path} does not exist: {folder} is no finished index. Run build_index"
        raise ValueError(message)
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA:
        message = (
            f"{path} is of format {manifest.get('schema')}, where {SCHEMA} is read: run "
            "build_index again, or open it with the version that it names under environment"
        )
        raise ValueError(message)
    return manifest


def _check_file(path: Path, expected: str | None) -> None:
    if not path.is_file():
        message = f"{path} does not exist: run build_index again"
        raise ValueError(message)
    if expected is not None and sha256(path) != expected:
        message = (
            f"{path} is not the file that manifest.json was written for: it was cut off, changed, "
            "or comes from another build. Run build_index again"
        )
        raise ValueError(message)


def _read(path: Path, read: Callable[[Path], Contents]) -> Contents:
    try:
        return read(path)
    except (OSError, RuntimeError, pa.ArrowInvalid) as error:
        message = f"{path} is cut off or damaged ({error}): run build_index again"
        raise ValueError(message) from error
