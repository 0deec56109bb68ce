"""A local Census: h5ad files as a SOMA collection in the schema of the CZ CELLxGENE Census.

Whatever reads the hosted Census reads it too (``cellxgene_census.open_soma(uri=...)``). Counts are
written block by block.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tiledbsoma as soma
from numpy.typing import NDArray

from scgpt_core.config import SourceRow, read_rows
from scgpt_core.data.census_sources import DESCRIBED, CensusSource, read_source
from scgpt_core.data.genes import load_gene_table
from scgpt_core.keys import (
    CELL_TYPE,
    CELL_TYPE_ID,
    DATASET_ID,
    FEATURE_ID,
    FEATURE_LENGTH,
    FEATURE_NAME,
    IS_PRIMARY_DATA,
    NNZ,
    RAW_SUM,
    SOMA_JOINID,
)
from scgpt_core.runs import digest, sha256, whole

logger = logging.getLogger(__name__)

CENSUS_SCHEMA_VERSION = "2.1.0"
_ORGANISM = "homo_sapiens"  # whose genes the gene table has
_CELL = "observation_joinid"
_Parent = soma.Collection[Any] | soma.Experiment | soma.Measurement
_Datasets = dict[str, list[CensusSource]]
"""Files of each data set: a study may have one a sample."""


def build_census(
    table: str | Path,
    output: str | Path,
    *,
    root: str | Path,
    cell_types: str | Path,
) -> None:
    """Write the h5ad files of a table as a local Census, whole or not at all.

    Parameters
    ----------
    table
        Rows of `SourceRow`; ``soma_joinid`` counts cells in this order, data set by data set.
    output
        Folder of the SOMA collection.
    root
        Where relative paths of the table start.
    cell_types
        Table of `harmonise_labels`.

    Raises
    ------
    ValueError
        That names the table where it does not fit, or the file: see `read_source`, and where values
        are no raw counts.
    """
    rows = [row for _, row in read_rows(Path(table), SourceRow)]
    if not rows:
        message = f"{table} has no rows: give it one for each h5ad file"
        raise ValueError(message)
    sources = (read_source(row, Path(root) / row.path, cell_types=Path(cell_types)) for row in rows)
    datasets = _group(sources, Path(table))
    genes = _genes_of(datasets)
    n_cells = sum(len(source.obs) for files in datasets.values() for source in files)
    shape = (n_cells, len(genes))
    census: soma.Collection[Any]
    with whole(output) as folder, soma.Collection.create(str(folder)) as census:
        data = census.add_new_collection("census_data")
        experiment = data.add_new_collection(_ORGANISM, soma.Experiment)
        rna = experiment.add_new_collection("ms").add_new_collection("RNA", soma.Measurement)
        X = rna.add_new_collection("X").add_new_sparse_ndarray(
            "raw", type=pa.float32(), shape=shape
        )
        obs = pd.concat(list(_write_cells(X, datasets, genes)), ignore_index=True)
        _add_frame(experiment, "obs", obs)
        _add_frame(rna, "var", genes)
        _add_presence(rna, datasets, genes)
        info = census.add_new_collection("census_info")
        for name, frame in _info(datasets, [Path(table), Path(cell_types)], obs).items():
            _add_frame(info, name, frame)
    logger.info("%s: %d cells, %d genes, %d data sets", output, *shape, len(datasets))


def _group(sources: Iterable[CensusSource], table: Path) -> _Datasets:
    """Files by the data set that they are of, in the order of the table."""
    datasets: _Datasets = {}
    for source in sources:
        datasets.setdefault(source.row.dataset_id, []).append(source)
    for name, files in datasets.items():
        for column in ("title", "citation"):
            said = sorted({getattr(source.row, column) for source in files})
            if len(said) > 1:
                message = (
                    f"{table}: rows of {name} have different values of {column} "
                    f"({', '.join(map(repr, said))}): give all of them the same"
                )
                raise ValueError(message)
    return datasets


def _genes_of(datasets: _Datasets) -> pd.DataFrame:
    """List the known genes of all files, by Ensembl id; the index is the row in the gene table."""
    found = np.unique(
        np.concatenate([source.genes_G for files in datasets.values() for source in files])
    )
    table = load_gene_table().select(["gene_id", "symbol", "length"]).take(found[found >= 0])
    genes: pd.DataFrame = table.to_pandas()
    genes.columns = pd.Index([FEATURE_ID, FEATURE_NAME, FEATURE_LENGTH])
    genes.insert(0, SOMA_JOINID, np.arange(len(genes)))
    return genes.astype({FEATURE_LENGTH: np.int64}).set_index(found[found >= 0])


def _write_cells(
    X: soma.SparseNDArray, datasets: _Datasets, genes: pd.DataFrame
) -> Iterator[pd.DataFrame]:
    """Write the counts, and yield obs of each file with what was counted."""
    first = 0
    for files in datasets.values():
        for number, source in enumerate(files):
            obs = source.obs.rename_axis(_CELL).reset_index()
            obs.insert(0, SOMA_JOINID, np.arange(first, first + len(obs)))
            if len(files) > 1:
                obs[_CELL] += f"-{number}"  # samples share barcodes: unique in their data set
            obs[RAW_SUM], obs[NNZ] = _write_counts(X, source, genes, first)
            first += len(obs)
            logger.info("%s: %d cells written", source.path, len(obs))
            yield obs


def _write_counts(
    X: soma.SparseNDArray, source: CensusSource, genes: pd.DataFrame, first: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Write the counts of a file from a row on, and give the sum and the number of each cell's."""
    column_of_row = genes[SOMA_JOINID].reindex(source.genes_G)
    column_G = column_of_row.fillna(-1).to_numpy(np.int64)
    raw_sums, nnz = [], []
    for counts in source.blocks():
        known = counts[:, column_G >= 0].tocoo()
        coordinates = {
            "soma_dim_0": known.row.astype(np.int64) + first,
            "soma_dim_1": column_G[column_G >= 0][known.col],
            "soma_data": known.data.astype(np.float32),
        }
        X.write(pa.table(coordinates))
        first += counts.shape[0]
        raw_sums.append(np.asarray(known.sum(axis=1), float).ravel())
        nnz.append(np.bincount(known.row, minlength=counts.shape[0]))
    return np.concatenate(raw_sums), np.concatenate(nnz)


def _add_frame(parent: _Parent, name: str, frame: pd.DataFrame) -> None:
    """Add a SOMA data frame; repeated texts of obs are stored once, as in the Census."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    if name == "obs":
        for column in (DATASET_ID, CELL_TYPE, CELL_TYPE_ID, *DESCRIBED):
            encoded = table[column].dictionary_encode()
            table = table.set_column(table.column_names.index(column), column, encoded)
    created = parent.add_new_dataframe(
        name, schema=table.schema, index_column_names=[SOMA_JOINID], domain=[(0, len(frame) - 1)]
    )
    uri = created.uri
    # The dictionaries of a new data frame are stored only once it is opened again.
    created.close()
    with soma.DataFrame.open(uri, "w") as reopened:
        reopened.write(table)


def _add_presence(rna: soma.Measurement, datasets: _Datasets, genes: pd.DataFrame) -> None:
    """Add which data set has which gene: in one of its files at least."""
    parts = []
    for number, files in enumerate(datasets.values()):
        rows = np.unique(np.concatenate([source.genes_G for source in files]))
        columns = np.sort(genes.loc[rows[rows >= 0], SOMA_JOINID].to_numpy())
        parts.append(
            pa.table(
                {
                    "soma_dim_0": np.full(len(columns), number),
                    "soma_dim_1": columns,
                    "soma_data": np.ones(len(columns), np.uint8),
                }
            )
        )
    presence = rna.add_new_sparse_ndarray(
        "feature_dataset_presence_matrix", type=pa.uint8(), shape=(len(datasets), len(genes))
    )
    presence.write(pa.concat_tables(parts))


def _info(datasets: _Datasets, tables: list[Path], obs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Summary, data sets, and genes of the files that the Census does not have."""
    paths = sorted({source.path for files in datasets.values() for source in files})
    content = [sha256(path) for path in [*tables, *paths]]
    summary = {
        "census_schema_version": CENSUS_SCHEMA_VERSION,
        "census_build_date": f"local-{digest(content)[:12]}",
        "total_cell_count": str(len(obs)),
        "unique_cell_count": str(int(obs[IS_PRIMARY_DATA].sum())),
    }
    described = [
        {
            DATASET_ID: name,
            "dataset_title": files[0].row.title,
            "citation": files[0].row.citation,
            "dataset_h5ad_path": ", ".join(dict.fromkeys(source.path.name for source in files)),
            "dataset_total_cell_count": sum(len(source.obs) for source in files),
        }
        for name, files in datasets.items()
    ]
    unmatched: dict[tuple[str, str, str], None] = {
        (name, gene, how): None
        for name, files in datasets.items()
        for source in files
        for gene, how in source.unmatched
    } or {("", "", ""): None}
    frames = {
        "summary": pd.DataFrame(summary.items(), columns=["label", "value"]),
        "datasets": pd.DataFrame(described),
        "unmatched_genes": pd.DataFrame([*unmatched], columns=[DATASET_ID, "name", "how"]),
    }
    for frame in frames.values():
        frame.insert(0, SOMA_JOINID, np.arange(len(frame)))
    return frames
