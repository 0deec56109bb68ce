"""Leading singular vectors of sparse matrices.

Shapes: N cells, T tokens of the vocabulary, K components.
"""

import torch
from torch import Tensor


def leading_subspace(
    x_NT: Tensor,
    x_TN: Tensor,
    n_components: int,
    *,
    iterations: int,
    seed: int,
    mean_T: Tensor | None = None,
) -> Tensor:
    """Orthonormal basis near the leading right singular vectors, by subspace iteration: (T, K).

    Parameters
    ----------
    x_NT, x_TN
        A sparse matrix and its transpose.
    n_components
        K, at most N.
    iterations
        Of the power method; more come nearer.
    seed
        Of the basis that it starts from.
    mean_T
        Taken from every row, which would fill memory if done beforehand; None: nothing is.

    References
    ----------
    Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4.
    """
    n_tokens = x_NT.shape[1]
    mean_T = torch.zeros(n_tokens) if mean_T is None else mean_T
    generator = torch.Generator().manual_seed(seed)
    basis_TK = torch.randn(n_tokens, n_components, generator=generator)
    for _ in range(iterations):
        scores_NK = x_NT @ basis_TK - mean_T @ basis_TK
        basis_TK = torch.linalg.qr(x_TN @ scores_NK - mean_T[:, None] * scores_NK.sum(0)).Q
    return basis_TK
