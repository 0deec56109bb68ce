"""The Census: how it is reached, and which of its cells make a corpus.

The hosted Census (by release) and a local one (by path) go through the same code.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cellxgene_census
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tiledbsoma as soma

from scgpt_core.data.cell_list import PARTITION, count_partitions
from scgpt_core.keys import (
    ASSAY,
    CELL_TYPE,
    CELL_TYPE_ID,
    DATASET_ID,
    DISEASE,
    DONOR_ID,
    IS_PRIMARY_DATA,
    NNZ,
    RAW_SUM,
    SOMA_JOINID,
    SUSPENSION_TYPE,
    TISSUE_GENERAL,
)
from scgpt_core.runs import digest, whole

logger = logging.getLogger(__name__)

CELL_COLUMNS = (
    SOMA_JOINID, DATASET_ID, DONOR_ID, ASSAY, CELL_TYPE, CELL_TYPE_ID, TISSUE_GENERAL, DISEASE,
    SUSPENSION_TYPE, IS_PRIMARY_DATA, RAW_SUM, NNZ,
)  # fmt: skip
"""obs columns of the Census that a corpus keeps."""
# Readers allocate their buffers at once and for every column; the Census's default is 1 GB each.
_TILEDB: Mapping[str, Any] = {"soma.init_buffer_bytes": 64 * 1024**2}
# What TileDB and requests raise for a fault of the network. RequestException is an OSError.
FAULTS = (OSError, soma.SOMAError)
T = TypeVar("T")


class Release(NamedTuple):
    """A Census that does not change any more."""

    version: str
    """The release's date; "" for a local Census."""
    uri: str
    """Of the SOMA collection."""


def resolve_release(census: str) -> Release:
    """Release of a Census: what ``latest`` or ``stable`` is today, or the path of a local one.

    Raises
    ------
    ValueError
        Where it does not exist; for a release, with the long-term ones that do.
    """
    if "://" in census or Path(census).exists():
        return Release("", census)
    if "/" in census:
        message = f"the local Census {census} does not exist: correct `census` in corpora.tsv"
        raise ValueError(message)
    try:
        description = cellxgene_census.get_census_version_description(census)
    except ValueError as error:
        directory = cellxgene_census.get_census_version_directory(lts=True)
        message = (
            f"Census release {census!r} does not exist (any more). Long-term releases: "
            f"{', '.join(sorted(directory))}"
        )
        raise ValueError(message) from error
    return Release(description["release_build"], description["soma"]["uri"])


def open_census(release: Release, tiledb: Mapping[str, Any]) -> soma.Collection[Any]:
    """Open a Census for reading.

    Parameters
    ----------
    release
        Hosted or local.
    tiledb
        TileDB options beside ours, as of a proxy: ``{"vfs.s3.proxy_host": ...}``.
    """
    config = {**_TILEDB, **tiledb}
    if release.version:
        return cellxgene_census.open_soma(census_version=release.version, tiledb_config=config)
    return cellxgene_census.open_soma(uri=release.uri, tiledb_config=config)


def retry(read: Callable[[], T], attempts: int, what: str) -> T:
    """Return what `read` does; try again after faults of the network, in 1, 2, 4, ... seconds.

    Parameters
    ----------
    attempts
        Tries before a fault is raised.
    what
        Is read, for the log.
    """
    for attempt in range(1, attempts):
        try:
            return read()
        except FAULTS as fault:
            wait = 2 ** (attempt - 1)
            logger.warning(
                "%s: try %d of %d: %s; next in %d s", what, attempt, attempts, fault, wait
            )
            time.sleep(wait)
    return read()


def query_census(
    output: str | Path,
    *,
    census: str,
    organism: str,
    obs_value_filter: str,
    partition_cells: int,
    attempts: int,
    tiledb: Mapping[str, Any],
) -> None:
    """Write the cells of a corpus, by ``soma_joinid``, with the partition that each is in.

    The file's metadata keep what the cells were asked of: ``census``, ``release``, ``uri``,
    ``schema_version``, ``organism``, ``obs_value_filter``, and a ``digest`` of them and the cells.

    Parameters
    ----------
    output
        The parquet file.
    census
        Release, ``stable``, ``latest``, or path of a local SOMA collection.
    organism
        As ``homo_sapiens``.
    obs_value_filter
        Which cells, in the Census's filter language.
    partition_cells
        Cells of a partition; the last has fewer.
    attempts
        Tries before a fault of the network is raised.
    tiledb
        TileDB options.

    Raises
    ------
    ValueError
        Where the filter is none or fits no cell, or the Census lacks the organism or a column.
    """

    def read() -> int:
        release = resolve_release(census)
        with open_census(release, tiledb) as collection:
            experiment = _experiment(collection, organism, census)
            summary = collection["census_info"]["summary"].read().concat().to_pydict()
            facts = dict(zip(summary["label"], summary["value"], strict=True))
            origin = {
                "census": census,
                "release": release.version or facts["census_build_date"],
                "hosted": str(bool(release.version)),
                "uri": release.uri,
                "schema_version": facts["census_schema_version"],
                "organism": organism,
                "obs_value_filter": obs_value_filter,
            }
            cells = _read_obs(experiment.obs, obs_value_filter, origin["release"])
            return _write_cells(cells, output, origin, partition_cells)

    n_cells = retry(read, attempts, f"query of {census}")
    if not n_cells:
        Path(output).unlink()
        message = f"no cell of {census} fits {obs_value_filter!r}: widen it in corpora.tsv"
        raise ValueError(message)
    logger.info("%d cells in %d partitions", n_cells, count_partitions(output))


def _experiment(collection: soma.Collection[Any], organism: str, census: str) -> soma.Experiment:
    organisms = collection["census_data"]
    if organism not in organisms:
        message = f"{census} has no {organism!r}; it has {', '.join(organisms)}"
        raise ValueError(message)
    experiment: soma.Experiment = organisms[organism]
    return experiment


def _read_obs(obs: soma.DataFrame, obs_value_filter: str, release: str) -> Iterable[pa.Table]:
    """Tables of the cells that fit, by ``soma_joinid``."""
    columns = list(obs.keys())
    missing = [column for column in CELL_COLUMNS if column not in columns]
    if missing:
        message = (
            f"Census {release} has no {', '.join(missing)} in obs: take a release of 2023-12-15 "
            "or later"
        )
        raise ValueError(message)
    try:
        # Reads nothing yet: what fails here is the filter.
        return obs.read(
            value_filter=obs_value_filter, column_names=CELL_COLUMNS, result_order="row-major"
        )
    except soma.SOMAError as error:
        message = (
            f"obs_value_filter {obs_value_filter!r}: {str(error).splitlines()[0]}. Columns of obs: "
            f"{', '.join(columns)}"
        )
        raise ValueError(message) from error


def _write_cells(
    tables: Iterable[pa.Table], output: str | Path, origin: Mapping[str, str], partition_cells: int
) -> int:
    """Write tables of cells as they arrive, and return how many cells there were."""
    n_cells, last = 0, -1
    content = hashlib.sha256(digest([origin, partition_cells]).encode())
    types = {
        SOMA_JOINID: pa.int64(),
        IS_PRIMARY_DATA: pa.bool_(),
        RAW_SUM: pa.float64(),
        NNZ: pa.int64(),
    }
    fields = [(name, types.get(name, pa.string())) for name in CELL_COLUMNS]
    schema = pa.schema([*fields, (PARTITION, pa.int32())], metadata=dict(origin))
    with whole(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for table in tables:
            if not len(table):  # so ends what takes more than one buffer of TileDB
                continue
            joinids = table[SOMA_JOINID].to_numpy()
            assert (np.diff(joinids, prepend=last) > 0).all(), "the Census gave cells out of order"
            last = int(joinids[-1])
            partition = (n_cells + np.arange(len(joinids))) // partition_cells
            columns = [table[name].cast(type_) for name, type_ in fields]
            cells = pa.table([*columns, partition.astype(np.int32)], schema=schema)
            # A download reads the row groups that its partition touches.
            writer.write_table(cells, row_group_size=partition_cells)
            content.update(joinids.tobytes())
            n_cells += len(joinids)
        writer.add_key_value_metadata({"digest": content.hexdigest()})
    return n_cells
