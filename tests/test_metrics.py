"""Our metrics against those of scib, harmonypy and scikit-learn, on real cells."""

import contextlib
import io
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import sklearn.metrics
from harmonypy.lisi import compute_lisi
from scib import metrics as scib
from scipy.sparse import csr_matrix, random_array

from scgpt_core import metrics
from scgpt_core.cell_cycle import explain_variance, measure_phases, read_phase_genes
from scgpt_core.metrics import Cells
from scgpt_core.neighbours import build_graph, cluster_graph, find_neighbours

CELLS = Path(__file__).parents[1] / "resources/cells/pbmc_symphony_3tech.h5ad"
LEIDEN = {"flavor": "igraph", "n_iterations": 2, "directed": False}


def cells_of(adata: ad.AnnData) -> Cells:
    return Cells(
        adata.obsm["X_emb"],
        unintegrated_ND=adata.obsm["X_pca"],
        batch_N=adata.obs["batch"].astype(str).to_numpy(),
        label_N=adata.obs["label"].astype(str).to_numpy(),
    )


@pytest.fixture(scope="module", params=["unintegrated", "centred"])
def adata(request: pytest.FixtureRequest) -> ad.AnnData:
    """600 blood cells of three technologies: their PCA, or its components centred by batch."""
    adata = ad.read_h5ad(CELLS)[::2].copy()
    adata.obs["label"] = adata.obs["cell_type"].astype("category")
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=30)
    emb_ND = adata.obsm["X_pca"].astype(np.float32)
    if request.param == "centred":
        batches = adata.obs["batch"].to_numpy()
        for batch in np.unique(batches):
            emb_ND[batches == batch] -= emb_ND[batches == batch].mean(axis=0)
    adata.obsm["X_emb"] = emb_ND
    sc.pp.neighbors(adata, use_rep="X_emb")
    return adata


@pytest.fixture(scope="module")
def clustered(adata: ad.AnnData) -> ad.AnnData:
    """The same cells with the clusters that scib finds best."""
    clustered = adata.copy()
    with contextlib.redirect_stdout(io.StringIO()):
        scib.cluster_optimal_resolution(
            clustered, "label", "cluster", use_rep="X_emb", verbose=False, **LEIDEN
        )
    return clustered


SCIB: dict[str, Callable[[ad.AnnData], float]] = {
    "nmi": lambda a: scib.nmi(a, "cluster", "label"),
    "ari": lambda a: scib.ari(a, "cluster", "label"),
    "asw_label": lambda a: scib.silhouette(a, "label", "X_emb"),
    "isolated_f1": lambda a: scib.isolated_labels_f1(
        a, "label", "batch", "X_emb", cluster_key="cluster", verbose=False
    ),
    "isolated_asw": lambda a: scib.isolated_labels_asw(a, "label", "batch", "X_emb", verbose=False),
    "asw_batch": lambda a: scib.silhouette_batch(a, "batch", "label", "X_emb", verbose=False),
    "graph_connectivity": lambda a: scib.graph_connectivity(a, "label"),
    "pcr": lambda a: scib.pcr_comparison(a, a, "batch", embed="X_emb"),
}


@pytest.mark.parametrize("name", SCIB)
def test_metric_is_that_of_scib(name: str, clustered: ad.AnnData) -> None:
    ours = getattr(metrics, name)(cells_of(clustered))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # scib's own, of pandas and scanpy
        theirs = SCIB[name](clustered)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_conservation_of_the_cell_cycle_is_that_of_scib() -> None:
    """On cell lines, whose genes of the cell cycle were measured, in the PCA of another seed."""
    adata = ad.read_h5ad(CELLS.with_name("cellmix_5lines_5batches.h5ad"))[::4].copy()
    genes = read_phase_genes(CELLS.parents[1] / "genesets/cell_cycle_genes_homo_sapiens.tsv")
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    adata.X = adata.X.astype(np.float32)
    phases = measure_phases(adata, genes)
    assert phases is not None
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.obsm["X_emb"] = sc.pp.pca(adata.X.toarray(), n_comps=20).astype(np.float32)
    cells = Cells(
        adata.obsm["X_emb"],
        unintegrated_ND=adata.obsm["X_emb"],
        batch_N=adata.obs["batch"].astype(str).to_numpy(),
        label_N=np.full(adata.n_obs, "a"),
        phase_N2=phases[0],
        phase_variance=phases[1],
    )
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # scib's own, of pandas and scanpy
        theirs = scib.cell_cycle(adata, adata, "batch", embed="X_emb", organism="human")
    assert metrics.cell_cycle(cells) == pytest.approx(theirs, abs=1e-6)
    few = {phase: names[:5] for phase, names in genes.items()}
    assert measure_phases(adata, few) is None
    assert np.isnan(metrics.cell_cycle(toy()))


def test_batches_too_small_for_the_cell_cycle_are_left_out() -> None:
    """Whatever the embedding of one cell is, nothing of it is conserved or lost."""
    genes = read_phase_genes(CELLS.parents[1] / "genesets/cell_cycle_genes_homo_sapiens.tsv")
    adata = ad.read_h5ad(CELLS.with_name("cellmix_5lines_5batches.h5ad"))[::8].copy()
    adata.obs["batch"] = np.repeat(["large", "few", "one"], [adata.n_obs - 4, 3, 1])
    phases = measure_phases(adata, genes)
    assert phases is not None
    assert phases[1].keys() == {"large"}
    emb_ND = sc.pp.pca(sc.pp.log1p(adata.X.toarray()), n_comps=20).astype(np.float32)

    def score(phase_variance: dict[str, float]) -> float:
        fields = (emb_ND, emb_ND, adata.obs["batch"].to_numpy(), np.full(adata.n_obs, "a"))
        return metrics.cell_cycle(Cells(*fields, phases[0], phase_variance))

    before = 2 * explain_variance(emb_ND[:-4], phases[0][:-4])
    assert score({"large": before, "one": np.nan, "few": 0.0}) == pytest.approx(0.5)
    assert np.isnan(score({"few": 0.0}))


def test_the_cell_cycle_takes_no_dense_counts() -> None:
    counts = random_array((400, 4000), density=0.02, rng=np.random.default_rng(0), format="csr")
    score_N2 = np.random.default_rng(1).normal(size=(400, 2))
    dense = explain_variance(counts.toarray(), score_N2)
    assert explain_variance(csr_matrix(counts), score_N2) == pytest.approx(dense, rel=1e-9)
    cells = ad.AnnData(csr_matrix(counts, dtype=np.float32))
    cells.obs["batch"] = "x"
    phases = {"S": cells.var_names[:40], "G2/M": cells.var_names[40:80]}
    measure_phases(cells[:60], phases)  # imports what it needs
    tracemalloc.start()
    assert measure_phases(cells, phases) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 4000 * 8


@pytest.mark.parametrize("column", ["batch", "label"])
def test_lisi_is_that_of_its_authors(column: str, adata: ad.AnnData) -> None:
    cells, n = cells_of(adata), adata.obs[column].nunique()
    theirs = np.median(compute_lisi(adata.obsm["X_emb"], adata.obs, [column]))
    if column == "batch":
        assert metrics.ilisi(cells) == pytest.approx((theirs - 1) / (n - 1), abs=1e-5)
    else:
        assert metrics.clisi(cells) == pytest.approx((n - theirs) / (n - 1), abs=1e-5)


def test_graph_and_clusters_are_those_of_scanpy(adata: ad.AnnData) -> None:
    graph = build_graph(*find_neighbours(adata.obsm["X_emb"], 15))
    assert abs(graph - adata.obsp["connectivities"]).max() < 1e-6
    sc.tl.leiden(adata, 0.6, **LEIDEN)
    ours = cluster_graph(graph, 0.6, seed=0)
    assert sklearn.metrics.adjusted_rand_score(adata.obs["leiden"], ours) == 1


def test_silhouettes_are_those_of_scikit_learn(adata: ad.AnnData) -> None:
    emb_ND, labels = adata.obsm["X_emb"].astype(float), adata.obs["label"].to_numpy().copy()
    labels[0] = "alone"
    theirs = sklearn.metrics.silhouette_samples(emb_ND, labels)
    np.testing.assert_allclose(metrics.silhouettes(emb_ND, labels), theirs, atol=1e-9)


def test_a_cell_is_its_own_first_neighbour_also_among_twins() -> None:
    emb_ND = np.repeat(np.random.default_rng(0).normal(size=(6, 3)), 5, axis=0).astype(np.float32)
    distances_NK, indices_NK = find_neighbours(emb_ND, 4)
    assert indices_NK[:, 0].tolist() == list(range(30))
    assert all(len(set(row)) == 4 for row in indices_NK.tolist())
    assert (distances_NK == 0).all()
    assert np.isfinite(build_graph(distances_NK, indices_NK).data).all()


def toy(**changes: object) -> Cells:
    """300 cells: two labels far apart, three batches drawn alike in both."""
    rng = np.random.default_rng(0)
    label_N = np.repeat(["a", "b"], 150)
    emb_ND = rng.normal(size=(300, 5)).astype(np.float32)
    emb_ND[:, 0] += np.where(label_N == "a", -20, 20)
    fields = {
        "emb_ND": emb_ND,
        "unintegrated_ND": emb_ND,
        "batch_N": rng.choice(["x", "y", "z"], 300),
        "label_N": label_N,
    }
    return Cells(**(fields | changes))


def test_the_best_embedding_has_the_best_scores() -> None:
    cells = toy()
    assert metrics.nmi(cells) == pytest.approx(1)
    assert metrics.ari(cells) == pytest.approx(1)
    assert metrics.clisi(cells) == pytest.approx(1)
    assert metrics.graph_connectivity(cells) == 1
    assert metrics.asw_label(cells) > 0.9
    assert metrics.ilisi(cells) > 0.8
    assert metrics.kbet(cells) > 0.9


def test_batches_apart_have_the_worst_scores() -> None:
    cells = toy()
    shift_N = np.select([cells.batch_N == "x", cells.batch_N == "y"], [-100, 0], 100)
    apart = toy(emb_ND=cells.emb_ND + np.eye(5)[1] * shift_N[:, None])
    assert metrics.kbet(apart) == 0
    assert metrics.ilisi(apart) < 0.05
    assert metrics.pcr(apart) == 0
    assert metrics.asw_batch(apart) < 0.1
    assert metrics.asw_batch(cells) > 0.9


def test_kbet_is_that_of_scib_metrics(adata: ad.AnnData, request: pytest.FixtureRequest) -> None:
    """`scib_metrics.kbet` 0.5.10 (JAX: not in the lock), label by label, the mean over labels.

    It was given the exact neighbours of the label's cells, each cell among its own, as many as
    here: `NearestNeighbors(n_neighbors=k, algorithm="brute")` of scikit-learn.
    """
    theirs = {"unintegrated": 0.32524520654548755, "centred": 0.6534441139817396}
    which = request.node.callspec.params["adata"]
    assert metrics.kbet(cells_of(adata)) == pytest.approx(theirs[which], abs=1e-6)


def test_kbet_of_chance_accepts_as_its_level_says() -> None:
    rng = np.random.default_rng(1)
    cells = Cells(
        emb_ND=rng.normal(size=(4000, 4)).astype(np.float32),
        unintegrated_ND=np.empty((4000, 0), np.float32),
        batch_N=rng.choice(["x", "y", "z"], 4000, p=[0.5, 0.3, 0.2]),
        label_N=np.full(4000, "a"),
    )
    assert metrics.kbet(cells) == pytest.approx(0.95, abs=0.02)


def test_isolated_labels_are_those_in_the_fewest_batches() -> None:
    cells = toy()
    assert cells.isolated_labels == []
    assert np.isnan(metrics.isolated_f1(cells))
    assert np.isnan(metrics.isolated_asw(cells))
    one_batch = toy(batch_N=np.where(cells.label_N == "b", "x", cells.batch_N))
    assert one_batch.isolated_labels == ["b"]
    assert metrics.isolated_f1(one_batch) > 0.9


def test_unlabelled_cells_count_as_neighbours_and_as_nothing_else() -> None:
    whole = toy()
    label_N = np.where(np.arange(300) % 3 == 0, "unknown", whole.label_N)
    some, known = toy(label_N=label_N), label_N != "unknown"
    fields = ("emb_ND", "unintegrated_ND", "batch_N", "label_N")
    without = Cells(*(getattr(whole, f)[known] for f in fields))
    assert some.n_labels == 2
    for metric in (metrics.asw_label, metrics.asw_batch, metrics.kbet):
        assert metric(some) == pytest.approx(metric(without))
    assert metrics.ilisi(some) == metrics.ilisi(whole)
    assert metrics.clisi(some) == pytest.approx(1)
    assert some.clusterings.shape == (10, 200)


def test_a_batch_of_unknown_origin_is_a_batch_like_others() -> None:
    """`unknown` is no label, but may well be the name of a donor."""
    named = toy()
    unknown = toy(batch_N=np.where(named.batch_N == "x", "unknown", named.batch_N))
    assert metrics.ilisi(unknown) == metrics.ilisi(named) > 0.8


OF_LABELS = {"nmi", "ari", "asw_label", "isolated_f1", "isolated_asw", "clisi"}
OF_BATCHES = {"isolated_f1", "isolated_asw", "asw_batch", "pcr", "ilisi", "kbet"}


@pytest.mark.parametrize(
    ("changes", "undefined"),
    [
        ({"batch_N": np.full(300, "x")}, OF_BATCHES),
        ({"label_N": np.full(300, "a")}, OF_LABELS),
        (
            {"label_N": np.full(300, "unknown")},
            OF_LABELS | {"asw_batch", "graph_connectivity", "kbet"},
        ),
    ],
    ids=["one batch", "one label", "no label"],
)
def test_what_is_not_defined_is_nan(changes: dict[str, object], undefined: set[str]) -> None:
    cells = toy(**changes)
    names = {*SCIB, "ilisi", "clisi", "kbet"}
    assert {name for name in names if np.isnan(getattr(metrics, name)(cells))} == undefined
