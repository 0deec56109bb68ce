"""The list of a corpus's cells (`cells.parquet`), as far as its footer tells.

Apart from `census`, so that reading a graph imports no more than it needs.
"""

from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

PARTITION: Final = "partition"
"""Column with the number of the partition that a cell is in."""


def read_origin(cells: str | Path) -> dict[str, str]:
    """Return what the cells were asked of, and ``digest``: of equal digests are equal cells."""
    metadata = pq.read_metadata(cells).metadata or {}
    return {k.decode(): v.decode() for k, v in metadata.items() if k != b"ARROW:schema"}


def count_partitions(cells: str | Path) -> int:
    """Count the partitions."""
    footer = pq.read_metadata(cells)
    column = footer.schema.to_arrow_schema().get_field_index(PARTITION)
    last = footer.row_group(footer.num_row_groups - 1).column(column)
    return int(last.statistics.max) + 1
