"""Loss terms of the published objectives, as pure functions.

Shapes: B cells, L gene tokens, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def masked_mse(prediction_BL: Tensor, target_BL: Tensor, hidden_BL: Tensor) -> Tensor:
    """Mean squared error over hidden positions (GEP and GEPC).

    Parameters
    ----------
    prediction_BL, target_BL
        Predicted and true bins.
    hidden_BL
        bool, True at the positions that count; none at all gives 0.
    """
    error_BL = (prediction_BL.float() - target_BL.float()) ** 2
    return masked_mean(error_BL, hidden_BL)


def zero_nll(nonzero_BL: Tensor, target_BL: Tensor, hidden_BL: Tensor) -> Tensor:
    """Mean Bernoulli negative log likelihood of "the value is not zero" over hidden positions.

    Parameters
    ----------
    nonzero_BL
        Predicted probability that the value is not zero.
    target_BL
        True bins.
    hidden_BL
        bool, True at the positions that count.
    """
    eps = torch.finfo(torch.float32).eps
    p_BL = nonzero_BL.float().clamp(eps, 1 - eps)
    log_likelihood_BL = torch.where(target_BL > 0, p_BL.log(), (-p_BL).log1p())
    return masked_mean(-log_likelihood_BL, hidden_BL)


def elastic_cell_similarity(cell_BD: Tensor, threshold: float) -> Tensor:
    """ECS: draw similar cells together and dissimilar ones apart (scGPT paper, eq. 11).

    The mean over all pairs of ``1 - (relu(cos) - threshold)²``, where a cell's similarity to itself
    counts as 0 and stays in the mean, as in the published code.
    """
    unit_BD = F.normalize(cell_BD.float(), dim=1)
    cosine_BB = (unit_BD @ unit_BD.T).relu()
    cosine_BB = cosine_BB * (1 - torch.eye(len(unit_BD), device=cell_BD.device))
    return (1 - (cosine_BB - threshold) ** 2).mean()


def masked_mean(x_BL: Tensor, hidden_BL: Tensor) -> Tensor:
    """Mean of `x_BL` where `hidden_BL`, a scalar; 0 where nothing is hidden."""
    return torch.where(hidden_BL, x_BL, 0.0).sum() / hidden_BL.sum().clamp(min=1)
