"""Programs are clusters of genes that are alike; what they mean is told beside chance."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_model import CheckpointMaker

from scgpt_core.checkpoint import save_checkpoint
from scgpt_core.config import NetworkSettings, ProgramSettings
from scgpt_core.data.cells import read_cells
from scgpt_core.data.collate import TokenSettings, to_batch
from scgpt_core.keys import LABEL
from scgpt_core.networks.cells import match_genes_of, sample_rows
from scgpt_core.networks.embeddings import (
    coexpression_embeddings,
    contextual_embeddings,
    static_embeddings,
)
from scgpt_core.networks.gene_sets import read_gene_sets
from scgpt_core.networks.programs import (
    RANDOM,
    SOURCES,
    cluster_genes,
    find_dataset_programs,
    find_programs,
    name_programs,
)
from scgpt_core.runs import read_json


def test_planted_programs_are_found_whatever_all_genes_share() -> None:
    rng = np.random.default_rng(0)
    planted = np.repeat([0, 1, 2], [30, 20, 4])
    centres = rng.normal(size=(3, 16))
    emb_GD = centres[planted] + 0.1 * rng.normal(size=(54, 16)) + 100
    order = rng.permutation(54)
    settings = ProgramSettings(neighbours=4, resolution=0.1)
    cluster_G = cluster_genes(emb_GD[order].astype(np.float32), settings, seed=0)
    programs = name_programs(cluster_G, [str(i) for i in order], min_genes=5)
    found = {name: sorted(map(int, genes)) for name, genes in programs.items()}
    assert found == {"1": list(range(30)), "2": list(range(30, 50))}


def test_contextual_embeddings_are_means_over_the_cells_that_have_the_gene(
    monocytes: ad.AnnData, make_checkpoint: CheckpointMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckpt, cells = make_checkpoint(), monocytes[:6].copy()
    token_ids = match_genes_of(cells, ckpt.vocab, 0.5).ids
    read = read_cells(cells, token_ids)
    batch = to_batch(read, TokenSettings.of_model(ckpt.config, max_tokens=5000), seed=0)
    with torch.inference_mode():
        token_BLD = ckpt.model(batch).token_BLD
    gene = int(np.argmax((cells.X.toarray() > 0).sum(0) == 4))
    has = batch.ids_BL == int(token_ids[gene])
    assert has.sum() == 4
    found = contextual_embeddings(read, ckpt, token_ids, max_tokens=5000, seed=0)
    torch.testing.assert_close(torch.from_numpy(found[gene]), token_BLD[has].mean(0))
    absent = ~(cells.X.toarray() > 0).any(0)
    assert np.isnan(found[absent]).all()
    assert np.isfinite(found[~absent]).all()
    monkeypatch.setattr("scgpt_core.networks.embeddings.BATCH_TOKENS", 1)  # cell by cell
    alone = contextual_embeddings(read, ckpt, token_ids, max_tokens=5000, seed=0)
    np.testing.assert_allclose(alone, found, atol=1e-5)


def test_genes_that_are_asked_for_come_first_where_they_fit(
    monocytes: ad.AnnData, make_checkpoint: CheckpointMaker
) -> None:
    ckpt, cells = make_checkpoint(), monocytes[:3].copy()
    token_ids = match_genes_of(cells, ckpt.vocab, 0.5).ids
    asked = token_ids[(cells.X.toarray() > 0).any(0)][:50]
    found = [
        contextual_embeddings(read_cells(cells, token_ids), ckpt, asked, max_tokens=n, seed=0)
        for n in (51, 50)
    ]
    assert [bool(np.isfinite(emb_GD).all()) for emb_GD in found] == [True, False]


def test_static_embeddings_are_what_enters_the_model(make_checkpoint: CheckpointMaker) -> None:
    ckpt = make_checkpoint()
    found = static_embeddings(ckpt, np.array([5, 3], np.int32))
    expected = ckpt.model.gene_embedding(torch.tensor([5, 3])).detach().numpy()
    np.testing.assert_allclose(found, expected)


def test_coexpressed_genes_have_like_vectors() -> None:
    rng = np.random.default_rng(0)
    hidden_N = rng.gamma(2, size=(200, 1))
    x_NG = np.hstack([hidden_N * [1, 2, 3], rng.gamma(2, size=(200, 3))]) + rng.random((200, 6))
    from scipy.sparse import csr_matrix

    emb_GK = coexpression_embeddings(ad.AnnData(csr_matrix(x_NG)), seed=0)
    np.testing.assert_allclose(emb_GK @ emb_GK.T, np.corrcoef(x_NG.T), atol=0.02)


def test_the_same_cells_are_drawn_in_any_order(monocytes: ad.AnnData) -> None:
    turned = monocytes[::-1].copy()
    first, second = (c.obs_names[sample_rows(c, 9, seed=1)] for c in (monocytes, turned))
    assert set(first) == set(second)
    assert len(sample_rows(monocytes, 10**6, seed=1)) == monocytes.n_obs


@pytest.fixture(scope="module")
def gene_sets(resources: Path) -> dict[str, frozenset[str]]:
    return read_gene_sets(resources / "genesets/ReactomePathways.gmt.gz")


SETTINGS = NetworkSettings(
    programs=ProgramSettings(n_genes=400, max_cells=40, max_tokens=200), device="cpu"
)


def test_programs_of_real_cells_are_told_beside_chance(
    kang: ad.AnnData, make_checkpoint: CheckpointMaker, gene_sets: dict[str, frozenset[str]]
) -> None:
    found = find_programs(kang, make_checkpoint(), gene_sets, SETTINGS, seed=0)
    assert set(found.genes["source"]) == set(SOURCES)
    assert not found.genes.duplicated(["source", "gene"]).any()
    assert found.genes.groupby(["source", "program"]).size().min() >= 5
    meant = found.enrichment.set_index(["source", "gene_set"]).sort_index()
    best = meant.loc[("coexpression", "Interferon alpha/beta signaling")].iloc[0]
    assert best["q"] < 1e-3
    scores = found.scores.set_index(["source", "metric"])["value"]
    # Random weights know nothing: only the co-expression of these cells does.
    assert scores["coexpression", "enriched share"] > 0.1
    assert scores["static", "enriched share"] <= scores[RANDOM, "enriched share"] + 0.1
    assert scores[RANDOM, "genes"] == scores["static", "genes"]
    activity = found.activity.set_index(["source", "program"]).sort_index()
    by_gene = found.genes[found.genes["source"] == "coexpression"].set_index("gene")["program"]
    of_b_cells = activity.loc[("coexpression", by_gene["CD79A"])].set_index("label")["activity"]
    assert set(of_b_cells.index) == set(kang.obs[LABEL])
    assert of_b_cells.idxmax() == "B cell"


def test_no_program_is_no_failure(
    kang: ad.AnnData,
    make_checkpoint: CheckpointMaker,
    gene_sets: dict[str, frozenset[str]],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    asked = ProgramSettings(n_genes=60, max_cells=20, max_tokens=80, min_genes=61)
    settings = NetworkSettings(programs=asked, device="cpu")
    found = find_programs(kang[:150].copy(), make_checkpoint(), gene_sets, settings, seed=0)
    for name in ("genes", "activity", "enrichment"):
        table = found._asdict()[name]
        table.to_parquet(tmp_path / "table.parquet")
        assert pd.read_parquet(tmp_path / "table.parquet").columns.equals(table.columns)
        assert {"source", "program"} <= set(table.columns)
        assert table.empty
    assert (found.scores["value"] == 0).all()
    assert set(found.scores["source"]) == set(SOURCES)
    assert "has 61 of them, so there is no program: lower networks.programs.min_g" in caplog.text


def test_a_data_set_gets_its_tables_and_record(
    kang: ad.AnnData, make_checkpoint: CheckpointMaker, resources: Path, tmp_path: Path
) -> None:
    ckpt = make_checkpoint()
    save_checkpoint(tmp_path / "model", ckpt.model, ckpt.vocab, {})
    kang[:150].copy().write_h5ad(tmp_path / "cells.h5ad")
    for output in ("first", "second"):
        find_dataset_programs(
            tmp_path / "cells.h5ad",
            tmp_path / "model",
            tmp_path / output,
            gene_sets=resources / "genesets/ReactomePathways.gmt.gz",
            settings=SETTINGS,
            seed=0,
        )
    names = {"genes", "activity", "enrichment", "scores"}
    assert {p.name for p in (tmp_path / "first").iterdir()} == {
        "run.json", *(f"{name}.parquet" for name in names)
    }  # fmt: skip
    for name in names:
        tables = [pd.read_parquet(tmp_path / o / f"{name}.parquet") for o in ("first", "second")]
        pd.testing.assert_frame_equal(*tables)
    used = read_json(tmp_path / "first/run.json")["settings"]
    assert set(used) == {"programs", "min_matched", "device", "seed"}
    assert used["programs"]["n_genes"] == 400
