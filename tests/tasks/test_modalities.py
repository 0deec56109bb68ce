"""Proteins and peaks come with the cells, whole or missing, from every kind of file."""

import tracemalloc
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from scipy.sparse import csr_matrix

from scgpt_core.config import DatasetRow, ModalitySettings
from scgpt_core.keys import BATCH
from scgpt_core.tasks.datasets import prepare_dataset
from scgpt_core.tasks.merging import merge_datasets
from scgpt_core.tasks.modalities import read_modalities, take_modalities, write_modalities
from scgpt_core.tasks.mosaic import normalise, pose_problem

ROOT = Path(__file__).parents[2]
CELLS = ROOT / "resources/cells"


def prepare(row: DatasetRow, output: Path) -> ad.AnnData:
    assert row.path is not None
    prepare_dataset(row, row.path, output, cell_types=ROOT / "resources/cell_types.tsv")
    return ad.read_h5ad(output)


def make_row(path: Path, **values: object) -> DatasetRow:
    return DatasetRow.model_validate({"dataset": path.stem, "path": str(path), **values})


def take(name: str, n: int, folder: Path) -> Path:
    """Every so manyth cell of a real CITE-seq set."""
    cells = ad.read_h5ad(CELLS / f"{name}.h5ad")
    path = folder / f"{name}.h5ad"
    cells[:: cells.n_obs // n][:n].copy().write_h5ad(path)
    return path


def write_mudata(path: Path, modalities: dict[str, ad.AnnData]) -> None:
    """A MuData file as its format says: `mod`, the cells of all in `obs`, and where each is."""
    names = sorted(set().union(*(cells.obs_names for cells in modalities.values())))
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "MuData"
        file.create_group("mod")
        for name, cells in modalities.items():
            write_elem(file, f"mod/{name}", cells)
        write_elem(file, "obs", pd.DataFrame({"site": "one"}, index=names))
        for name, cells in modalities.items():
            places = cells.obs_names.get_indexer(pd.Index(names)) + 1
            write_elem(file, f"obsmap/{name}", places.astype(np.uint32))


def make_multiome(n_cells: int = 40) -> dict[str, ad.AnnData]:
    """RNA and peaks, named as Cell Ranger ARC names them, and proteins of some cells."""
    rng = np.random.default_rng(0)
    names = [f"cell-{i}" for i in range(n_cells)]

    def draw(kind: str, features: list[str], mean: float) -> ad.AnnData:
        counts = csr_matrix(rng.poisson(mean, (n_cells, len(features))).astype(np.float32))
        obs, var = pd.DataFrame(index=names), pd.DataFrame({"kind": kind}, index=features)
        return ad.AnnData(counts, obs=obs, var=var)

    genes = ad.read_h5ad(CELLS / "pbmc3k_160_balanced.h5ad").var_names[:300].tolist()
    peaks = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(60)]
    rna = draw("Gene Expression", genes, 2.0)
    rna.obs["batch"] = np.where(np.arange(n_cells) < n_cells // 2, "a", "b")
    atac = draw("Peaks", peaks, 0.3)
    prot = draw("Antibody Capture", ["CD3", "CD4"], 50.0)
    return {"rna": rna, "atac": atac, "prot": prot[:25][::-1].copy()}


def test_proteins_of_obsm_are_prepared(tmp_path: Path) -> None:
    source = take("pbmc_citeseq_10x_400_unlabelled", 60, tmp_path)
    row = make_row(source, batch_key="batch", modalities="protein=protein_expression")
    modalities = read_modalities(prepare(row, tmp_path / "cells.h5ad"))
    protein = modalities.by_name["protein"]
    assert protein.features[:3] == ("protein:CD3", "protein:CD4", "protein:CD8a")
    assert protein.measured_KF.all()
    true = ad.read_h5ad(source).obsm["protein_expression"]
    np.testing.assert_array_equal(protein.counts_NF.toarray(), true)


def test_missing_values_are_features_not_measured(tmp_path: Path) -> None:
    cells = ad.read_h5ad(take("pbmc_citeseq_10x_400_unlabelled", 60, tmp_path))
    names = cells.uns["protein_names"]
    table = pd.DataFrame(cells.obsm["protein_expression"], index=cells.obs_names, columns=names)
    table.iloc[:20, :4] = np.nan
    cells.obsm["protein_expression"] = table
    cells.write_h5ad(tmp_path / "holes.h5ad")
    row = make_row(tmp_path / "holes.h5ad", modalities="protein=protein_expression")
    modalities = read_modalities(prepare(row, tmp_path / "cells.h5ad"))
    measured = modalities.measured("protein")
    assert not measured[:20, :4].any()
    assert measured[20:].all()
    assert measured[:, 4:].all()
    values = normalise(modalities, "protein")
    assert np.isnan(values[:20, :4]).all()
    np.testing.assert_allclose(np.nanmean(values, axis=1), 0, atol=1e-5)


def test_mudata_is_read_as_a_mosaic(tmp_path: Path) -> None:
    parts = make_multiome()
    write_mudata(tmp_path / "multi.h5mu", parts)
    row = make_row(tmp_path / "multi.h5mu", batch_key="batch", modalities="protein=prot atac=atac")
    cells = prepare(row, tmp_path / "cells.h5ad")
    modalities = read_modalities(cells)
    np.testing.assert_array_equal(cells.X.toarray(), parts["rna"].X.toarray())
    assert list(modalities.by_name) == ["protein", "atac"]
    has_protein = modalities.measured("protein").all(axis=1)
    np.testing.assert_array_equal(has_protein, np.arange(40) < 25)
    atac, protein = modalities.by_name["atac"], modalities.by_name["protein"]
    np.testing.assert_array_equal(atac.counts_NF.toarray(), parts["atac"].X.toarray())
    expected = parts["prot"].X.toarray()[::-1]
    np.testing.assert_array_equal(protein.counts_NF.toarray()[:25], expected)
    assert atac.features[1] == "atac:chr1:1000-1500"


def test_many_peaks_take_the_memory_of_their_counts() -> None:
    """20,000 cells x 10,000 peaks: a flag for each of these would be 200 MB."""
    n, n_peaks = 20_000, 10_000
    columns = np.random.default_rng(0).integers(0, n_peaks, n)
    peaks = csr_matrix((np.ones(n, np.float32), columns, np.arange(n + 1)), (n, n_peaks))
    cells = ad.AnnData(csr_matrix((n, 1), dtype=np.float32), obsm={"atac": peaks})
    cells.obs_names = [f"cell-{i}" for i in range(n)]
    cells.uns["atac_names"] = np.array([f"chr1:{i}-{i + 1}" for i in range(n_peaks)])
    cells.obs["measured:atac"] = np.arange(n) % 2 == 0
    row = DatasetRow.model_validate({"dataset": "x", "path": "x", "modalities": "atac=atac"})
    tracemalloc.start()
    modalities = take_modalities(cells, row)
    assert modalities.by_name["atac"].measured_KF.shape == (2, n_peaks)
    assert modalities.by_name["atac"].measured_KF.all(axis=1).tolist() == [False, True]
    assert modalities.panel_N[:4].tolist() == [1, 0, 1, 0]
    cells.obs["batch"] = "x"
    write_modalities(cells, modalities)
    problem = pose_problem(cells, [], ModalitySettings(n_peaks=50), seed=0)
    assert len(problem.visible.features) == 50
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("modalities", "said"),
    [
        ("protein=adt", "obsm has no 'adt' for protein; it has: protein_expression"),
        ("protein=X_noise", "names of the 2 features of obsm"),
        ("protein=X_log", "not whole|fraction|whole numbers"),
    ],
)
def test_user_mistakes_are_named(tmp_path: Path, modalities: str, said: str) -> None:
    path = take("pbmc_citeseq_10x_400_unlabelled", 30, tmp_path)
    cells = ad.read_h5ad(path)
    if modalities != "protein=adt":
        key = modalities.removeprefix("protein=")
        values = np.log1p(cells.obsm["protein_expression"])
        cells.obsm[key] = values[:, :2] if key == "X_noise" else values
        cells.write_h5ad(path)
    with pytest.raises(ValueError, match=said):
        prepare(make_row(path, modalities=modalities), tmp_path / "out.h5ad")


def test_an_unknown_modality_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="proteins: give protein=KEY, atac=KEY or both"):
        DatasetRow.model_validate({"dataset": "x", "path": "x", "modalities": "proteins=adt"})


def test_data_sets_of_other_proteins_are_merged_and_some_withheld(tmp_path: Path) -> None:
    parts = {}
    for name in ("pbmc_citeseq_bremsc", "pbmc_citeseq_10x_400_unlabelled"):
        row = make_row(
            take(name, 60, tmp_path), batch_key="batch", modalities="protein=protein_expression"
        )
        parts[name] = tmp_path / f"prepared_{name}.h5ad"
        prepare(row, parts[name])
    merge_datasets(parts, tmp_path / "merged.h5ad")
    merged = ad.read_h5ad(tmp_path / "merged.h5ad")
    protein = read_modalities(merged).by_name["protein"]
    assert len(protein.features) == 16  # 10 and 14, of which 8 are the same
    measured = read_modalities(merged).measured("protein")
    assert measured[:60].sum(axis=1).tolist() == [10] * 60
    assert measured[60:].sum(axis=1).tolist() == [14] * 60
    column = protein.features.index("protein:CD19")
    first = ad.read_h5ad(parts["pbmc_citeseq_bremsc"]).obsm["protein"].toarray()
    np.testing.assert_array_equal(protein.counts_NF[:60, column].toarray().ravel(), first[:, 4])

    query = "pbmc_citeseq_10x_400_unlabelled/pbmc5k_v3"
    problem = pose_problem(merged, [query], ModalitySettings(), seed=0)
    np.testing.assert_array_equal(problem.withheld_N, merged.obs[BATCH] == query)
    assert not problem.visible.measured("protein")[problem.withheld_N].any()
    assert problem.visible.by_name["protein"].counts_NF[problem.withheld_N].nnz == 0
    drawn = pose_problem(merged, [], ModalitySettings(withheld_share=0.3), seed=0).withheld_N
    assert 0.15 < drawn.mean() < 0.45
    turned = pose_problem(merged[::-1].copy(), [], ModalitySettings(withheld_share=0.3), seed=0)
    np.testing.assert_array_equal(turned.withheld_N[::-1], drawn)
