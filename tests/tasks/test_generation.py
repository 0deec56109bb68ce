"""Generation: what is given stays, what is sure comes first, and the metrics know good from bad."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from scgpt_core.config import GenerationSettings, ModelConfig
from scgpt_core.data.cells import read_cells
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import LABEL, SPECIAL_TOKENS, UNKNOWN
from scgpt_core.model import ScGPT
from scgpt_core.model.weights import LoadReport
from scgpt_core.runs import read_json
from scgpt_core.tasks import generation
from scgpt_core.tasks.generation import SIMPLE, assess_generation, generate_dataset
from scgpt_core.tasks.generator import Bins, generate, true_bins


def make_model(n_tokens: int = 30, **changes: object) -> ScGPT:
    torch.manual_seed(0)
    config = ModelConfig(
        width=16, n_layers=2, n_heads=2, ffn_width=16, n_tokens=n_tokens, pad_id=0, cls_id=1,
        **changes,
    )  # fmt: skip
    model = ScGPT(config).eval()
    with torch.no_grad():  # predictions within the range of bins, so that none is cut off
        model.get_parameter("gep_head.value.4.bias").fill_(25)
    return model


def make_batch() -> Batch:
    ids_BL = torch.tensor([[1, 3, 4, 5, 6, 7, 8, 9], [1, 10, 11, 12, 13, 14, 0, 0]])
    padding_BL = ids_BL == 0
    hidden_BL = torch.zeros_like(padding_BL)
    hidden_BL[0, 3:], hidden_BL[1, 2:6] = True, True
    values_BL = torch.arange(16).reshape(2, 8).float().masked_fill(hidden_BL, -1)
    return Batch(
        ids_BL=ids_BL,
        values_BL=values_BL,
        padding_BL=padding_BL,
        known_BL=~hidden_BL & ~padding_BL,
        hidden_BL=hidden_BL,
    )


def test_one_round_is_the_prediction_and_what_is_known_stays() -> None:
    model, batch = make_model(), make_batch()
    made_BL = generate(model, batch)
    with torch.inference_mode():
        expected_BL = model(batch, heads={"gep"}).gep_BL
    hidden_BL = batch.hidden_BL
    torch.testing.assert_close(made_BL[hidden_BL], expected_BL[hidden_BL])
    assert torch.equal(made_BL[~hidden_BL], batch.values_BL[~hidden_BL])


def test_each_round_takes_what_the_heads_agree_on() -> None:
    """Two rounds, done by hand: half of the unknown genes, then the rest given those."""
    model, batch = make_model(), make_batch()
    with torch.inference_mode():
        first = model(batch)
    doubt_BL = (first.gep_BL - first.gepc_BL).abs()
    taken_BL = torch.zeros_like(batch.hidden_BL)
    for b, n_taken in enumerate([3, 2]):  # of 5 and of 4
        unknown = batch.hidden_BL[b].nonzero()[:, 0]
        taken_BL[b, unknown[doubt_BL[b, unknown].argsort()[:n_taken]]] = True
    second = batch._replace(
        values_BL=torch.where(taken_BL, first.gep_BL, batch.values_BL),
        known_BL=batch.known_BL | taken_BL,
        hidden_BL=batch.hidden_BL & ~taken_BL,
    )
    torch.testing.assert_close(generate(model, batch, rounds=2), generate(model, second))


def test_a_cell_prompt_changes_what_is_generated() -> None:
    model, batch = make_model(), make_batch()
    one, other = (
        generate(model, batch, prompt_BD=torch.randn(2, 16, generator=torch.manual_seed(seed)))
        for seed in (1, 2)
    )
    assert not torch.equal(one[batch.hidden_BL], other[batch.hidden_BL])


def test_rounds_need_a_second_head() -> None:
    with pytest.raises(ValueError, match="need a model with GEPC"):
        generate(make_model(gepc=None), make_batch(), rounds=2)


@pytest.fixture(scope="module")
def cells(resources: Path) -> ad.AnnData:
    """About 20 cells of each of eight types, on 2,000 genes."""
    adata = ad.read_h5ad(resources / "cells/pbmc3k_160_balanced.h5ad")[:, :2000].copy()
    adata.obs[LABEL] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs_names[:5], LABEL] = UNKNOWN
    return adata


def make_checkpoint(adata: ad.AnnData, **changes: object) -> Checkpoint:
    vocab = Vocabulary([*SPECIAL_TOKENS, *adata.var_names])
    model = make_model(vocab.n_tokens, **changes)
    return Checkpoint(model, vocab, model.config, LoadReport((), (), (), ()), "random")


def test_a_data_set_without_labels_is_named_so(cells: ad.AnnData) -> None:
    unlabelled = cells.copy()
    unlabelled.obs[LABEL] = UNKNOWN
    with pytest.raises(ValueError, match=r"no cell has a label: .* name the `label_key`"):
        assess_generation(unlabelled, make_checkpoint(cells), SETTINGS, seed=0)


SETTINGS = GenerationSettings(rounds=(1, 3), max_tokens=100, max_cells=80)


def test_generation_is_assessed_beside_simple_predictors(cells: ad.AnnData) -> None:
    found = assess_generation(cells, make_checkpoint(cells), SETTINGS, seed=0)
    scores = found.scores
    assert set(scores["predictor"]) == {"scGPT", "scGPT, 3 rounds", *SIMPLE}
    assert set(scores["prompt"]) == {"genes", "cell"}
    types = set(cells.obs[LABEL]) - {UNKNOWN}
    assert set(found.cells) == set(scores["cell_type"]) - {"all"} <= types
    assert sum(found.cells.values()) <= 80
    overall = scores[scores["cell_type"] == "all"].set_index(["metric", "prompt", "predictor"])
    value = overall["value"]
    assert set(value.index.levels[0]) == {"cell_correlation", "gene_error", "mixing"}
    for prompt in ("genes", "cell"):
        mean, drawn = (value["gene_error", prompt, name] for name in SIMPLE)
        assert mean < drawn
        assert 5 < value["gene_error", prompt, "scGPT"] < 50
    # A real cell stands among real ones as they do among each other.
    assert value["mixing", "cell", "real cell of the type"] == pytest.approx(1, abs=0.15)


def test_another_cell_is_guessed_by_as_it_is(
    cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all its genes, though the model reads a hundred of them."""
    n_guessed, score = [], generation.gene_errors

    def count(guess_NT: Bins, *others: Any) -> Any:
        n_guessed.append((guess_NT > 0).sum(1).max())
        return score(guess_NT, *others)

    monkeypatch.setattr(generation, "gene_errors", count)
    scores = assess_generation(cells, make_checkpoint(cells), SETTINGS, seed=0).scores
    by_predictor = dict(zip(scores["predictor"].unique(), n_guessed, strict=False))
    assert by_predictor["scGPT"] <= 99 < by_predictor[SIMPLE[1]]
    ckpt, counts = make_checkpoint(cells), read_cells(cells, np.arange(3, 3 + cells.n_vars))
    sampled = true_bins(counts, ckpt, SETTINGS, 0)
    whole = true_bins(counts, ckpt, SETTINGS, 0, whole=True)
    n_genes = np.diff(counts.indptr)
    assert n_genes.max() > 99
    assert ((sampled > 0).sum(1) == np.minimum(n_genes, 99)).all()
    assert ((whole > 0).sum(1) == n_genes).all()


def test_scores_follow_from_the_genes_errors(cells: ad.AnnData) -> None:
    found = assess_generation(cells, make_checkpoint(cells), SETTINGS, seed=0)
    by_gene = found.genes.groupby(["prompt", "predictor"])["error"].mean()
    scores = found.scores[found.scores["metric"] == "gene_error"]
    expected = scores.set_index(["prompt", "predictor"])["value"]
    pd.testing.assert_series_equal(by_gene, expected.sort_index(), check_names=False)
    assert set(found.genes["gene"]) <= set(cells.var_names)
    assert (found.genes["cells"] > 0).all()


def test_generation_does_not_depend_on_order_or_batches(cells: ad.AnnData) -> None:
    ckpt = make_checkpoint(cells)
    first = assess_generation(cells, ckpt, SETTINGS, seed=0)
    turned = cells[::-1].copy()
    second = assess_generation(turned, ckpt, SETTINGS.model_copy(update={"batch_size": 7}), seed=0)
    real = "real cell of the type"  # is drawn by the place among the cells
    a, b = (t.scores[t.scores["predictor"] != real].reset_index(drop=True) for t in (first, second))
    pd.testing.assert_frame_equal(a, b, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"gepc": None}, {}, r"lacks \['gepc'\]"),
        ({}, {"max_cells": 1}, "no cell type has 2 among the 1 cells that were drawn"),
    ],
)
def test_what_cannot_be_generated_is_said(
    cells: ad.AnnData, changes: dict[str, object], settings: dict[str, int], said: str
) -> None:
    ckpt = make_checkpoint(cells, **changes)
    with pytest.raises(ValueError, match=said):
        assess_generation(cells, ckpt, SETTINGS.model_copy(update=settings), seed=0)


def test_genes_of_another_kind_are_refused(cells: ad.AnnData) -> None:
    renamed = cells.copy()
    del renamed.var["feature_id"]
    renamed.var_names = [f"probe{i}" for i in range(cells.n_vars)]
    with pytest.raises(ValueError, match=r"0\.0% of the counts have a token"):
        assess_generation(renamed, make_checkpoint(cells), SETTINGS, seed=0)


def test_a_data_set_gets_its_tables_and_record(cells: ad.AnnData, tmp_path: Path) -> None:
    ckpt = make_checkpoint(cells)
    save_checkpoint(tmp_path / "model", ckpt.model, ckpt.vocab, {})
    cells.write_h5ad(tmp_path / "cells.h5ad")
    output = tmp_path / "out"
    generate_dataset(tmp_path / "cells.h5ad", tmp_path / "model", output, settings=SETTINGS, seed=0)
    assert {path.name for path in output.iterdir()} == {
        "scores.parquet", "genes.parquet", "run.json"
    }  # fmt: skip
    run = read_json(output / "run.json")
    assert run["settings"]["known_share"] == 0.5
    assert run["model"] == load_checkpoint(tmp_path / "model", device="cpu").digest
    assert 70 < sum(run["cells"].values()) <= 80
