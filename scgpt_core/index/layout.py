"""Where queries lie on the UMAP of their reference, for looking at only.

Shapes: S cells of the reference, Q queries, K neighbours, D width.
"""

from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from scgpt_core.index.embeddings import FloatArray
from scgpt_core.index.sample import Sample
from scgpt_core.index.vote import neighbour_weights
from scgpt_core.plots import compute_umap

_NEIGHBOURS: Final = 15


def lay_out(
    sample: Sample, query_QD: FloatArray, *, seed: int, max_cells: int = 2000
) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Lay out cells of a reference, and queries among them.

    A query is put at the mean of its neighbours' places, weighted as their votes are: where UMAP,
    too, puts new cells first. So queries move nothing, and lie between cells of the reference also
    where they are like none of them: novelty says that.

    Parameters
    ----------
    sample
        Sampled cells of the reference.
    query_QD
        Unit rows.
    seed
        Of the layout, and of which cells are taken.
    max_cells
        Reference cells that are laid out, at most.

    Returns
    -------
    Rows of the S reference cells, their places (S, 2), and the queries' places (Q, 2).
    """
    drawn_S = np.random.default_rng(seed).permutation(len(sample.rows_S))[:max_cells]
    drawn_S.sort()
    emb_SD = np.ascontiguousarray(sample.emb_SD[drawn_S])
    layout_S2 = compute_umap(emb_SD, seed=seed)
    k = min(_NEIGHBOURS, len(emb_SD))
    similarity_QK, near_QK = faiss.knn(
        np.ascontiguousarray(query_QD), emb_SD, k, metric=faiss.METRIC_INNER_PRODUCT
    )
    weight_QK = neighbour_weights(similarity_QK)
    weight_QK /= weight_QK.sum(axis=1, keepdims=True)
    layout_Q2 = np.einsum("qk,qkx->qx", weight_QK, layout_S2[near_QK])
    return sample.rows_S[drawn_S], layout_S2, layout_Q2.astype(np.float32)
