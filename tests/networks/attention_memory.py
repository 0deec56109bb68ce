"""What attention takes in a process of its own, which imports this module alone."""

import numpy as np
from numpy.typing import NDArray

from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import NetworkSettings
from scgpt_core.data.cells import Cells, take_cells
from scgpt_core.networks import attention
from scgpt_core.networks.attention import attend_genes
from scgpt_core.runs import peak_memory_mb


def peak_after(
    n_cells: int,
    *,
    cells: Cells,
    ckpt: Checkpoint,
    token_ids: NDArray[np.int32],
    regulators: NDArray[np.int64],
) -> float:
    """MB that this process, a new one, has at most when it has attended so many cells."""
    attention._MAP_NUMBERS = 2**18
    rows = np.arange(n_cells) % len(cells.cell_ids)
    attend_genes(
        take_cells(cells, rows), ckpt, token_ids, regulators, settings=NetworkSettings(), seed=0
    )
    return peak_memory_mb()
