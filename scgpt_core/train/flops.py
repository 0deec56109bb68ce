"""How much a training step computes, and how much a device could.

Model FLOPs are counted as 6 x non-embedding parameters x tokens, plus attention: what the model
needs for a forward and a backward pass over real tokens. Padding, recomputation and tables that are
only looked up do not count.
"""

import re
import time

import torch
from torch import Tensor, nn

from scgpt_core.model import ScGPT

_PEAK_TFLOPS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "B200": 2250.0,
    "L40S": 362.0, "A100": 312.0, "L4": 121.0, "A10": 125.0,
}  # fmt: skip
"""Dense bfloat16, by words of the device's name, from the makers' data sheets."""


class FlopsCounter:
    """Model FLOPs of training on cells.

    Parameters
    ----------
    model
        Before it is sharded.
    """

    def __init__(self, model: ScGPT) -> None:
        tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
        self.parameters = sum(p.numel() for p in model.parameters())
        self.non_embedding = self.parameters - sum(table.numel() for table in tables)
        # Scores and their weighted sum: 2 x 2 LD a token forward, twice that backward.
        self._attention = 12 * model.config.n_layers * model.config.width

    def __call__(self, tokens_B: Tensor) -> float:
        """FLOPs of one forward and backward pass over cells of so many real tokens."""
        tokens_B = tokens_B.double()
        per_token_B = 6 * self.non_embedding + self._attention * tokens_B
        return float((tokens_B * per_token_B).sum())


def peak_flops(device: torch.device, precision: torch.dtype) -> float | None:
    """FLOPs a second that the device has for dense matrix products; None where that is not known.

    Of a GPU in bfloat16 from its data sheet. Of a CPU measured, on its current number of threads:
    the best of several products of 2048 x 2048 matrices.
    """
    if device.type == "cuda":
        peak = _peak_of(torch.cuda.get_device_name(device))
        return peak if precision == torch.bfloat16 else None
    n = 2048
    a = torch.ones(n, n, dtype=precision)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)


def _peak_of(name: str) -> float | None:
    """Bfloat16 FLOPs a second of a GPU by its name: A10G is no A10."""
    known = (tflops for words, tflops in _PEAK_TFLOPS.items() if re.search(rf"\b{words}\b", name))
    return next((tflops * 1e12 for tflops in known), None)
