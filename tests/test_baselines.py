import importlib.util
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import yaml
from numpy.typing import NDArray

from scgpt_core import baselines
from scgpt_core.baselines import BASELINES, N_COMPONENTS, N_LATENT, run_baseline
from scgpt_core.config import MethodRow, leave_out_missing, load_config, read_table
from scgpt_core.metrics import batch_variance
from scgpt_core.tasks.datasets import variable_genes

ROOT = Path(__file__).parents[1]
ROWS = {
    name: row
    for name, row in read_table(ROOT / "config/methods.tsv", MethodRow).items()
    if row.task == "integration"
}
INSTALLED = {
    name: row.requires is None or importlib.util.find_spec(row.requires) is not None
    for name, row in ROWS.items()
}


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    cells = ad.read_h5ad(ROOT / "resources/cells/pbmc_symphony_3tech.h5ad")[::2].copy()
    cells.obs["label"] = cells.obs["cell_type"]
    return cells


@pytest.mark.filterwarnings(
    "ignore:Tensorflow not installed:ImportWarning",  # umap, which bbknn imports
    r"ignore:Category \d+ in adata.obs:UserWarning",  # scvi-tools of types of one or two cells
)
@pytest.mark.parametrize("method", BASELINES)
def test_embedding_is_finite_and_equal_on_every_run(
    method: str,
    adata: ad.AnnData,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not INSTALLED[method]:
        pytest.skip(f"{ROWS[method].requires} is not installed")
    monkeypatch.setattr(baselines, "SCVI_EPOCHS", 3)  # it takes 400 of so few cells
    monkeypatch.setattr(baselines, "_SCANVI_TRAINING", {"max_epochs": 2})
    counts = adata.X.copy()
    first, second = (run_baseline(method, adata, seed=3) for _ in range(2))
    assert not capsys.readouterr().out
    assert first.dtype == np.float32
    assert first.shape == (600, N_LATENT if method in ("scvi", "scanvi") else N_COMPONENTS)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    assert (counts != adata.X).nnz == 0


def test_scvi_is_one_quiet_process_whatever_slurm_says(
    adata: ad.AnnData,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("scvi", reason="scvi-tools is not installed")
    monkeypatch.setattr(baselines, "SCVI_EPOCHS", 1)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_JOB_NAME", "an allocation of eight tasks")
    run_baseline("scvi", adata, seed=0)
    assert os.environ["SLURM_NTASKS"] == "8"
    assert not caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(("method", "n_genes"), [("hvg_pca", 2000), ("few_genes_pca", 200)])
def test_pca_of_variable_genes_is_that_of_scanpy(
    adata: ad.AnnData, method: str, n_genes: int
) -> None:
    ours = run_baseline(method, adata, seed=0)
    theirs = adata.copy()
    sc.pp.normalize_total(theirs, target_sum=1e4)
    sc.pp.log1p(theirs)
    theirs = theirs[:, variable_genes(adata, n_genes)].copy()
    sc.pp.pca(theirs, n_comps=50)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs.obsm["X_pca"]), atol=1e-3)


def test_harmony_takes_batches_away(adata: ad.AnnData) -> None:
    def explained(emb_ND: NDArray[np.float32]) -> float:
        return batch_variance(emb_ND, adata.obs["batch"].astype(str).to_numpy())

    before, after = (explained(run_baseline(m, adata, seed=0)) for m in ("hvg_pca", "harmony"))
    assert after < 0.3 * before


def test_few_cells_have_fewer_components(adata: ad.AnnData) -> None:
    assert run_baseline("hvg_pca", adata[:20].copy(), seed=0).shape == (20, 19)


def test_user_mistakes_are_named(adata: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="no baseline 'seurat'; there are: hvg_pca, few_genes_pca"):
        run_baseline("seurat", adata, seed=0)
    one = adata[adata.obs["batch"] == "10x_5p"].copy()
    with pytest.raises(ValueError, match="of batch '10x_5p': integration needs two batches"):
        run_baseline("harmony", one, seed=0)


def test_every_baseline_of_the_table_has_its_function() -> None:
    assert {name for name, row in ROWS.items() if row.rule == "baseline"} == set(BASELINES)


def test_methods_without_their_package_are_left_out_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    absent = MethodRow(method="x", task="integration", rule="baseline", requires="no_x", title="X")
    cfg, tables = load_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()), ROOT)
    tables = tables.model_copy(update={"methods": {**tables.methods, "x": absent}})
    benchmark = cfg.benchmark.model_copy(update={"methods": ("x", "hvg_pca")})
    cfg = leave_out_missing(cfg.model_copy(update={"benchmark": benchmark}), tables)
    assert cfg.benchmark.methods == ("hvg_pca",)
    assert "x is left out: it needs the package no_x" in caplog.text


def test_the_environment_of_heavy_baselines_has_what_they_require_and_the_lock_s_versions() -> None:
    pins = yaml.safe_load((ROOT / "envs/baselines.yaml").read_text())["dependencies"][-1]["pip"]
    lock = (ROOT / "envs/lock.txt").read_text().splitlines()
    locked = dict(line.split("+")[0].split("==") for line in lock if "==" in line)
    versions = dict(pin.split("==") for pin in pins)
    shared = versions.keys() & locked.keys()
    assert {name: versions[name] for name in shared} == {name: locked[name] for name in shared}
    required = {row.requires for row in ROWS.values() if row.requires}
    assert {name.removesuffix("-tools") for name in versions} >= required
