from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgpt_core.tasks.merging import merge_datasets

CELLS = Path(__file__).parents[2] / "resources/cells/pbmc_symphony_3tech.h5ad"


def write(path: Path, cells: ad.AnnData, genes: pd.Index, batches: list[str]) -> Path:
    """Cells in the form of `prepare_dataset`, all of one type, their genes named anew."""
    obs = pd.DataFrame({"batch": batches, "label": "T", "cell_type": "T cell"}, cells.obs_names)
    obs["cell_type_ontology_term_id"] = "CL:0000084"
    part = ad.AnnData(cells.X, obs=obs.astype("category"), var=pd.DataFrame(index=genes))
    part.write_h5ad(path)
    return path


def test_parts_are_merged_over_their_common_human_genes(tmp_path: Path) -> None:
    cells = ad.read_h5ad(CELLS)
    cells = cells[:, cells.var["feature_id"] != ""][:, :600]
    ids = pd.Index(cells.var["feature_id"].astype(str))
    by_symbol, by_id = cells[:3, :500].copy(), cells[:4, 100:].copy()
    by_id.X.data[: by_id.X.indptr[1]] = 0
    by_id.X.eliminate_zeros()
    parts = {
        "a": write(tmp_path / "a.h5ad", by_symbol, by_symbol.var_names, ["one"] * 3),
        "b": write(tmp_path / "b.h5ad", by_id, ids[100:] + ".12", ["x", "x", "y", "y"]),
    }
    merge_datasets(parts, tmp_path / "out.h5ad")
    merged = ad.read_h5ad(tmp_path / "out.h5ad")
    truth = cells[[0, 1, 2, 1, 2, 3]].X.toarray()[:, ids.get_indexer(merged.var_names)]
    assert set(merged.var_names) <= set(ids[100:500])
    assert merged.n_vars > 390  # some symbols have changed their gene since
    np.testing.assert_array_equal(merged.X.toarray(), truth)
    assert merged.var["feature_id"].tolist() == merged.var_names.tolist()
    names = cells.obs_names
    assert merged.obs_names.tolist() == [
        *("a/" + name for name in names[:3]),
        *("b/" + name for name in names[1:4]),  # the first has no count
    ]
    assert merged.obs["batch"].tolist() == ["a", "a", "a", "b/x", "b/y", "b/y"]
    assert set(merged.obs["label"]) == {"T cell"}
    assert len(merged.uns["source_sha256"]) == 64


def test_parts_with_too_few_common_genes_are_refused(tmp_path: Path) -> None:
    cells = ad.read_h5ad(CELLS)[:2, ["LYZ", "NKG7", "CD14"]]
    parts = {
        "a": write(tmp_path / "a.h5ad", cells[:, :2], cells.var_names[:2], ["one"] * 2),
        "b": write(tmp_path / "b.h5ad", cells[:, 1:], cells.var_names[1:], ["one"] * 2),
    }
    with pytest.raises(ValueError, match=r"1 human genes in common \(known genes: a 2, b 2\)"):
        merge_datasets(parts, tmp_path / "out.h5ad")
