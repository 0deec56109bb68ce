"""What kind of faiss index a reference gets, and how it is trained.

A description ("Flat", "OPQ32_64,IVF1024_HNSW32,PQ32x4fsr") is a string of faiss's index factory.
"""

import logging
from typing import Any, Final

import faiss
import numpy as np
from faiss.contrib.clustering import two_level_clustering

from scgpt_core.index.embeddings import FloatArray

logger = logging.getLogger(__name__)

EXACT_BELOW: Final = 100_000
"""Cells under which every distance is computed."""
_MAX_CODES: Final = 40
"""4-bit codes of a cell: with its id of 8 bytes, 33 million cells take less than 1 GB."""
_MAX_LISTS: Final = 8192
_TRAIN_CELLS_A_LIST: Final = 64
_MIN_TRAIN_CELLS: Final = 65_536
_TWO_LEVELS_FROM: Final = 1024
"""Lists from which on they are learnt on two levels."""
_OPQ_ITERATIONS: Final = 10


def choose_description(description: str, n_cells: int, width: int) -> str:
    """Resolve "auto": exact below 100,000 cells, IVF with 4-bit fast-scan codes above.

    About 2 sqrt(n) lists, a power of two; codes of at most 20 bytes a cell on a rotation to at
    most 80 dimensions.
    """
    if description != "auto":
        return description
    if n_cells < EXACT_BELOW:
        return "Flat"
    n_lists = min(_MAX_LISTS, 2 ** round(np.log2(2 * np.sqrt(n_cells))))
    n_codes = min(width, 2 * _MAX_CODES) // 2
    return f"OPQ{n_codes}_{2 * n_codes},IVF{n_lists}_HNSW32,PQ{n_codes}x4fsr"


def make_index(description: str, width: int) -> Any:
    """Empty, untrained faiss index over unit vectors.

    Flat compares by inner product. All else compares by squared distance, which has the same order
    on unit vectors: of a compressed vector only the distance is estimated without bias.

    Raises
    ------
    ValueError
        Where faiss does not know the description.
    """
    exact = description == "Flat"
    metric = faiss.METRIC_INNER_PRODUCT if exact else faiss.METRIC_L2
    try:
        return faiss.index_factory(width, description, metric)
    except RuntimeError as error:
        message = (
            f"index.description {description!r} makes no faiss index of width {width}: {error}"
        )
        raise ValueError(message) from error


def n_train_cells(index: Any, n_cells: int) -> int:
    """How many cells the index learns its lists and codes from; 0 where it learns nothing."""
    if index.is_trained:
        return 0
    ivf = faiss.try_extract_index_ivf(index)
    n_lists = 0 if ivf is None else int(ivf.nlist)
    return min(n_cells, max(_MIN_TRAIN_CELLS, _TRAIN_CELLS_A_LIST * n_lists))


def train_index(index: Any, emb_ND: FloatArray, *, seed: int, threads: int) -> None:
    """Learn rotation, lists and codes.

    One thread does it, whatever `threads` is set back to: with more of them, matrix products round
    differently, a graph over the lists grows in another order, and no two builds are equal.

    Raises
    ------
    ValueError
        Where there are too few cells for the description.
    """
    rotation_pq = _match_rotation(index)  # lives until training is over: faiss does not own it
    faiss.omp_set_num_threads(1)
    try:
        _train_lists(index, emb_ND, seed)
        index.train(emb_ND)
    except RuntimeError as error:
        message = (
            f"{len(emb_ND)} cells are too few to train this index, choose another "
            f"index.description: {error}"
        )
        raise ValueError(message) from error
    finally:
        faiss.omp_set_num_threads(threads)
    del rotation_pq


def _train_lists(index: Any, emb_ND: FloatArray, seed: int) -> None:
    """Learn the lists of an IVF index: many of them by k-means on two levels, which takes seconds.

    Clusters are split into lists in proportion to their cells; faiss would compare every training
    cell with every list.
    """
    index, ivf = faiss.downcast_index(index), faiss.try_extract_index_ivf(index)
    if ivf is None:
        return
    ivf.cp.seed = seed
    if ivf.nlist < _TWO_LEVELS_FROM:
        return
    for i in range(index.chain.size() if isinstance(index, faiss.IndexPreTransform) else 0):
        transform = index.chain.at(i)
        transform.train(emb_ND)
        emb_ND = transform.apply(emb_ND)
    n_clusters = int(np.sqrt(ivf.nlist))
    centre_CD, _ = two_level_clustering(emb_ND, n_clusters, ivf.nlist, seed=seed)
    ivf.quantizer.add(centre_CD)


def _match_rotation(index: Any) -> Any:
    """Give an OPQ rotation the code size that it serves, where faiss would train it for 8 bits."""
    index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexPreTransform):
        return None
    opq = faiss.downcast_VectorTransform(index.chain.at(0))
    codes = getattr(faiss.downcast_index(index.index), "pq", None)
    if not isinstance(opq, faiss.OPQMatrix) or codes is None:
        return None
    pq = faiss.ProductQuantizer(opq.d_out, opq.M, codes.nbits)
    opq.pq, opq.niter = pq, _OPQ_ITERATIONS
    return pq


def set_nprobe(index: Any, nprobe: int) -> None:
    """Set how many lists a query visits; an exact index has none."""
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return
    ivf.nprobe = nprobe
    quantizer = faiss.downcast_index(ivf.quantizer)
    if isinstance(quantizer, faiss.IndexHNSW):
        quantizer.hnsw.efSearch = max(2 * nprobe, 32)
