"""Cells made up for tests of the data path: short and long ones, with many ties."""

import numpy as np

from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import TokenSettings

N_GENES = 60
PAD, CLS = N_GENES, N_GENES + 1


def make_cells(n_cells: int, *, seed: int = 0, longest: int = N_GENES) -> Cells:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, n_cells)
    genes = [np.sort(rng.choice(N_GENES, n, replace=False)) for n in lengths]
    return Cells(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate(genes).astype(np.int32),
        rng.geometric(0.3, lengths.sum()).astype(np.float32),
        rng.permutation(10 * n_cells)[:n_cells],
    )


def make_settings(**changes) -> TokenSettings:
    settings = {
        "max_tokens": 20, "n_bins": 11, "pad_id": PAD, "cls_id": CLS,
        "cls_value": -2, "pad_value": -2, "mask_value": -1,
    }  # fmt: skip
    return TokenSettings(**settings | changes)
