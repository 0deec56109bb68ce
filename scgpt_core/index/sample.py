"""Reference cells, drawn at random, on which an index is measured and confidence is calibrated.

Shapes: S sampled cells, D width.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.index.embeddings import FloatArray
from scgpt_core.keys import EMBEDDING

_ROW = "row"


class Sample(NamedTuple):
    """Sampled cells; their embeddings are kept because an index gives them back but roughly."""

    rows_S: NDArray[np.int64]
    """Rows of the reference, ascending."""
    emb_SD: FloatArray
    """Unit rows."""


def write_sample(path: Path, sample: Sample) -> None:
    """Write sampled cells as an Arrow file."""
    values = pa.array(sample.emb_SD.ravel())
    emb_S = pa.FixedSizeListArray.from_arrays(values, sample.emb_SD.shape[1])
    table = pa.table({_ROW: sample.rows_S, EMBEDDING: emb_S})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_sample(path: Path) -> Sample:
    """Read the sampled cells that `write_sample` wrote."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    emb = batch.column(EMBEDDING)
    return Sample(
        batch.column(_ROW).to_numpy(),
        emb.flatten().to_numpy().reshape(-1, emb.type.list_size),
    )
