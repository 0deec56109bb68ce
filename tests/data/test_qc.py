from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.sparse import csc_matrix, csr_matrix

from scgpt_core.config import QCSettings
from scgpt_core.data.partitions import Partition, write_partition
from scgpt_core.data.qc import CleanCells, check_counts, divide_by_length


@pytest.fixture(scope="module")
def pbmc(resources: Path) -> ad.AnnData:
    return ad.read_h5ad(resources / "cells/pbmc3k_160_balanced.h5ad")[:40].copy()


@pytest.mark.parametrize(
    "kind", [csr_matrix, csc_matrix, lambda X: X.toarray(), lambda X: X.astype(np.float32)]
)
def test_real_counts_pass_in_every_form(pbmc: ad.AnnData, kind) -> None:
    check_counts(kind(pbmc.X), source="pbmc")


def test_backed_counts_are_read_in_blocks(resources: Path) -> None:
    path = resources / "cells/pbmc3k_160_balanced.h5ad"
    check_counts(ad.read_h5ad(path, backed="r").X, source=str(path))


@pytest.mark.parametrize(
    ("row", "value", "seen"),
    [
        (7, 1.5, "values that are not whole numbers, as 1.5"),
        (3, -2, "negative values, as -2"),
        (0, np.nan, "NaN among the values (1 of them)"),
        (9, np.inf, "infinite values"),
    ],
)
def test_a_value_that_is_no_count_is_located(row: int, value: float, seen: str) -> None:
    counts = np.ones((10, 4), np.float32)
    counts[row, 2] = value
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_counts(csr_matrix(counts), source="mine.h5ad", rows_N=np.arange(100, 110))
    assert str(caught.value).startswith(f"mine.h5ad, rows {100 + row}: {seen}")


def test_rows_of_later_blocks_are_numbered_from_the_start() -> None:
    counts = csr_matrix(np.ones((9000, 1), np.float32))
    counts.data[[5000, 8999]] = 0.5
    with pytest.raises(ValueError, match=r"x, rows 5000: "):
        check_counts(counts, source="x")


def test_normalised_values_are_called_by_name(pbmc: ad.AnnData) -> None:
    cells = pbmc.copy()
    cells.X = cells.X.astype(np.float32)
    sc.pp.normalize_total(cells, target_sum=1e4)
    with pytest.raises(
        ValueError, match=r"rows 0, 1, 2, 3, 4, \.\.\.: values are normalised to 10000 a cell"
    ):
        check_counts(cells.X, source="x")
    sc.pp.log1p(cells)
    with pytest.raises(ValueError, match="values are log1p-normalised to 10000 a cell"):
        check_counts(cells.X, source="x")


GENES = ["A", "B", "MT-ND1"]
CELLS = pd.DataFrame(
    [
        # joinid, assay, primary, counts of A, B, MT-ND1
        (0, "10x", True, 5, 5, 0, None),
        (1, "10x", False, 5, 5, 0, "not primary data"),
        (2, "Drop-seq", True, 5, 5, 0, "assay not wanted"),
        (3, "10x", True, 9, 0, 0, "fewer than 2 genes"),
        (4, "10x", True, 1, 1, 0, "fewer than 4 counts"),
        (5, "10x", True, 5, 0, 5, "more than 40% mitochondrial counts"),
        (6, "10x", True, 5, 4, 1, "more than 2 genes"),
        (0, "10x", False, 1, 0, 0, "soma_joinid seen before"),  # and more that is wrong
        (7, "10x", True, 7, 3, 0, None),
    ],
    columns=["soma_joinid", "assay", "is_primary_data", *GENES, "fault"],
)  # fmt: skip


def write_cells(path: Path, cells: pd.DataFrame) -> Partition:
    genes = pd.DataFrame(
        {
            "feature_id": ["ENSG1", "ENSG2", "ENSG3"],
            "feature_name": GENES,
            "feature_length": [1000, 2000, 500],
        }
    )
    obs = cells.drop(columns=[*GENES, "fault"]).set_axis(cells.index.astype(str))
    with write_partition(path, obs, genes, {"release": "test"}) as writer:
        for half in np.array_split(cells[GENES].to_numpy(np.float32), 2):
            writer.append(csr_matrix(half))
    return Partition(path)


def test_each_cell_is_dropped_once_and_for_a_reason(tmp_path: Path) -> None:
    settings = QCSettings(
        min_genes=2, max_genes=2, min_counts=4, max_mito_share=0.4, assays=("10x",)
    )
    clean = CleanCells(write_cells(tmp_path / "p.h5ad", CELLS), settings)
    kept = pd.concat([obs for obs, _ in clean.blocks()])
    good = CELLS[CELLS["fault"].isna()]
    assert kept["soma_joinid"].tolist() == good["soma_joinid"].tolist()
    dropped = CELLS["fault"].value_counts().to_dict()
    assert clean.funnel == {"cells in": 9, **dropped, "cells out": 2}


def test_counts_that_are_none_stop_the_partition(tmp_path: Path) -> None:
    cells = CELLS.astype({"B": float})
    cells.loc[6, "B"] = 0.25
    clean = CleanCells(write_cells(tmp_path / "p.h5ad", cells), QCSettings())
    with pytest.raises(ValueError, match=r"p\.h5ad, rows 6: values that are not whole numbers"):
        list(clean.blocks())


def test_full_length_counts_are_divided_by_length(tmp_path: Path) -> None:
    settings = QCSettings(min_genes=1, full_length_assays=("Drop-seq",))
    clean = CleanCells(write_cells(tmp_path / "p.h5ad", CELLS), settings)
    assert clean.max_count is None
    rows = {
        joinid: counts.toarray()[i]
        for obs, counts in clean.blocks()
        for i, joinid in enumerate(obs["soma_joinid"])
    }
    np.testing.assert_allclose(rows[2], [5, 2.5, 0])
    np.testing.assert_allclose(rows[6], [5, 4, 1])


def test_a_gene_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 genes have no length"):
        divide_by_length(csr_matrix(np.ones((1, 2))), np.array([0, 9]), np.array([True]))
