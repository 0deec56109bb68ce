"""A local Census: h5ad files as a SOMA collection in the schema of the CZ CELLxGENE Census.

Whatever reads the hosted Census reads it too (``cellxgene_census.open_soma(uri=...)``). Counts are
written block by block.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import tiledbsoma as soma
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.config import SourceRow, read_table
from scgpt_core.data.genes import GeneMatch, all_genes, load_gene_table, match_var
from scgpt_core.data.labels import harmonise_labels
from scgpt_core.data.qc import check_counts
from scgpt_core.keys import (
    ASSAY,
    CELL_TYPE,
    CELL_TYPE_ID,
    DATASET_ID,
    DISEASE,
    DONOR_ID,
    FEATURE_ID,
    FEATURE_LENGTH,
    FEATURE_NAME,
    IS_PRIMARY_DATA,
    NNZ,
    RAW_SUM,
    SOMA_JOINID,
    SPECIAL_TOKENS,
    SUSPENSION_TYPE,
    TISSUE_GENERAL,
    UNKNOWN,
)
from scgpt_core.runs import digest, sha256, whole

logger = logging.getLogger(__name__)

CENSUS_SCHEMA_VERSION = "2.1.0"
_ORGANISM = "homo_sapiens"  # whose genes the gene table has
_BLOCK_CELLS = 4096
_LEAST_KNOWN_GENES = 0.5
"""Share of a file's genes; below it they are hardly human genes."""
_Parent = soma.Collection[Any] | soma.Experiment | soma.Measurement
_DESCRIBED = (ASSAY, DONOR_ID, SUSPENSION_TYPE, TISSUE_GENERAL, DISEASE)


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
        Rows of `SourceRow`; ``soma_joinid`` counts cells in this order.
    output
        Folder of the SOMA collection.
    root
        Where relative paths of the table start.
    cell_types
        Table of `harmonise_labels`.

    Raises
    ------
    ValueError
        That names the file, where values are no raw counts, a column does not exist, or no gene is
        known.
    """
    rows = read_table(Path(table), SourceRow).values()
    sources = [_Source(row, Path(root) / row.path, Path(cell_types)) for row in rows]
    genes = _genes_of(sources)
    census: soma.Collection[Any]
    with whole(output) as folder, soma.Collection.create(str(folder)) as census:
        data = census.add_new_collection("census_data")
        experiment = data.add_new_collection(_ORGANISM, soma.Experiment)
        rna = experiment.add_new_collection("ms").add_new_collection("RNA", soma.Measurement)
        n_cells = sum(source.n_cells for source in sources)
        shape = (n_cells, len(genes))
        X = rna.add_new_collection("X").add_new_sparse_ndarray(
            "raw", type=pa.float32(), shape=shape
        )
        obs = pd.concat(list(_write_cells(X, sources, genes)), ignore_index=True)
        _add_frame(experiment, "obs", obs)
        _add_frame(rna, "var", genes)
        _add_presence(rna, sources, genes)
        info = census.add_new_collection("census_info")
        for name, frame in _info(sources, Path(table), obs).items():
            _add_frame(info, name, frame)
    logger.info("%s: %d cells, %d genes, %d data sets", output, *shape, len(sources))


@dataclass(frozen=True)
class _Source:
    """One row of the table and its file."""

    row: SourceRow
    path: Path
    cell_types: Path

    @cached_property
    def adata(self) -> ad.AnnData:
        """The file, its counts left on disk."""
        if not self.path.is_file():
            message = (
                f"{self.row.dataset_id}: {self.path} does not exist: put it there, or correct its "
                "path in the table of h5ad files"
            )
            raise ValueError(message)
        return ad.read_h5ad(self.path, backed="r")

    @cached_property
    def var(self) -> pd.DataFrame:
        """Genes of the counts."""
        return pd.DataFrame(self.adata.raw.var if self.row.layer == "raw" else self.adata.var)

    @cached_property
    def genes(self) -> GeneMatch:
        """Numbers of the genes in the human gene table."""
        return match_var(self.var, all_genes())

    @cached_property
    def chosen(self) -> NDArray[np.int64]:
        """Rows of the file that are kept, ascending: (N,)."""
        return np.flatnonzero(self._where(self.row.cells))

    @property
    def n_cells(self) -> int:
        """Number of cells that are kept."""
        return len(self.chosen)

    def blocks(self) -> Iterator[csr_matrix]:
        """Yield raw counts of the cells that are kept, checked."""
        match self.row.layer:
            case None:
                counts = self.adata.X
            case "raw":
                counts = self.adata.raw.X
            case layer if layer in self.adata.layers:
                counts = self.adata.layers[layer]
            case layer:
                found = ", ".join(["raw", *self.adata.layers])
                message = f"{self.path} has no layer {layer!r}; it has {found}"
                raise ValueError(message)
        for first in range(0, self.n_cells, _BLOCK_CELLS):
            rows = self.chosen[first : first + _BLOCK_CELLS]
            block = csr_matrix(counts[rows])
            check_counts(block, source=str(self.path), rows_N=rows)
            block.eliminate_zeros()
            yield block

    def obs(self) -> pd.DataFrame:
        """Columns of the Census for the cells that are kept."""
        frame = pd.DataFrame({DATASET_ID: self.row.dataset_id}, index=self.adata.obs_names)
        for column in _DESCRIBED:
            frame[column] = self._describe(column)
        labels = harmonise_labels(self._describe(CELL_TYPE), self.cell_types)
        frame[CELL_TYPE], frame[CELL_TYPE_ID] = labels.names, labels.ids
        frame[IS_PRIMARY_DATA] = self._where(self.row.primary)
        return frame.iloc[self.chosen]

    def _describe(self, column: str) -> pd.Series:
        """Values of a column: what the row says, or the obs column that it names."""
        said: str = getattr(self.row, column)
        obs = self.adata.obs
        if not said.startswith("obs:"):
            return pd.Series(said, index=obs.index)
        name = said.removeprefix("obs:")
        if name not in obs:
            message = f"{self.path}: obs has no column {name!r}; it has {', '.join(obs.columns)}"
            raise ValueError(message)
        return pd.Series(obs[name].astype(object).fillna(UNKNOWN).astype(str))

    def _where(self, query: str | None) -> NDArray[np.bool_]:
        obs = self.adata.obs
        return np.ones(len(obs), bool) if query is None else obs.eval(query).to_numpy(bool)


def _rows_in_table(match: GeneMatch) -> NDArray[np.int64]:
    """Row of each gene in `load_gene_table`, negative where it is not known."""
    return match.ids.astype(np.int64) - len(SPECIAL_TOKENS)


def _genes_of(sources: list[_Source]) -> pd.DataFrame:
    """List the known genes of all files, by Ensembl id; the index is the row in the gene table."""
    for source in sources:
        logger.info("%s: %s", source.row.dataset_id, source.genes.report())
        source.genes.require(_LEAST_KNOWN_GENES, source=str(source.path))
    found = np.unique(np.concatenate([_rows_in_table(source.genes) for source in sources]))
    table = load_gene_table().select(["gene_id", "symbol", "length"]).take(found[found >= 0])
    genes: pd.DataFrame = table.to_pandas()
    genes.columns = pd.Index([FEATURE_ID, FEATURE_NAME, FEATURE_LENGTH])
    genes.insert(0, SOMA_JOINID, np.arange(len(genes)))
    return genes.astype({FEATURE_LENGTH: np.int64}).set_index(found[found >= 0])


def _write_cells(
    X: soma.SparseNDArray, sources: list[_Source], genes: pd.DataFrame
) -> Iterator[pd.DataFrame]:
    """Write the counts, and yield obs of each source with what was counted."""
    first = 0
    for source in sources:
        column_of_row = genes[SOMA_JOINID].reindex(_rows_in_table(source.genes))
        column_G = column_of_row.fillna(-1).to_numpy(np.int64)
        obs = source.obs()
        obs.insert(0, SOMA_JOINID, np.arange(first, first + len(obs)))
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
        obs[RAW_SUM], obs[NNZ] = np.concatenate(raw_sums), np.concatenate(nnz)
        logger.info("%s: %d cells written", source.row.dataset_id, len(obs))
        yield obs.rename_axis("observation_joinid").reset_index()


def _add_frame(parent: _Parent, name: str, frame: pd.DataFrame) -> None:
    """Add a SOMA data frame; repeated texts of obs are stored once, as in the Census."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    if name == "obs":
        for column in (DATASET_ID, CELL_TYPE, CELL_TYPE_ID, *_DESCRIBED):
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


def _add_presence(rna: soma.Measurement, sources: list[_Source], genes: pd.DataFrame) -> None:
    """Add which data set has which gene."""
    parts = []
    for number, source in enumerate(sources):
        rows = _rows_in_table(source.genes)
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
        "feature_dataset_presence_matrix", type=pa.uint8(), shape=(len(sources), len(genes))
    )
    presence.write(pa.concat_tables(parts))


def _info(sources: list[_Source], table: Path, obs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Summary, data sets, and genes of the files that the Census does not have."""
    content = [sha256(table), *(sha256(path) for path in sorted({s.path for s in sources}))]
    summary = {
        "census_schema_version": CENSUS_SCHEMA_VERSION,
        "census_build_date": f"local-{digest(content)[:12]}",
        "total_cell_count": str(len(obs)),
        "unique_cell_count": str(int(obs[IS_PRIMARY_DATA].sum())),
    }
    datasets = [
        (s.row.dataset_id, s.row.title, s.row.citation, s.path.name, s.n_cells) for s in sources
    ]
    columns = ["dataset_title", "citation", "dataset_h5ad_path", "dataset_total_cell_count"]
    unmatched: list[tuple[str, str, str]] = [
        (source.row.dataset_id, name, how)
        for source in sources
        for name, how, matched in zip(
            source.genes.names, source.genes.how, source.genes.matched, strict=True
        )
        if not matched
    ] or [("", "", "")]
    frames = {
        "summary": pd.DataFrame(summary.items(), columns=["label", "value"]),
        "datasets": pd.DataFrame(datasets, columns=[DATASET_ID, *columns]),
        "unmatched_genes": pd.DataFrame(unmatched, columns=[DATASET_ID, "name", "how"]),
    }
    for frame in frames.values():
        frame.insert(0, SOMA_JOINID, np.arange(len(frame)))
    return frames
