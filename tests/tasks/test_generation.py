"""Generation: what is given stays, what is sure comes first, and the metrics know good from bad."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import ModelConfig
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import LABEL, SPECIAL_TOKENS
from scgpt_core.model import ScGPT
from scgpt_core.model.weights import LoadReport
from scgpt_core.tasks.generation import (
    Profiles,
    assess_generation,
    cell_correlation,
    gene_error,
    generate,
    mixing,
)


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


def make_profiles() -> Profiles:
    rng = np.random.default_rng(0)
    true_NT = rng.uniform(1, 50, (40, 30)).astype(np.float32)
    true_NT[:, 5] = np.nan
    return Profiles(true_NT, ~np.isnan(true_NT), {})


def test_metrics_of_the_truth_are_perfect() -> None:
    profiles = make_profiles()
    assert cell_correlation(profiles.true_NT, profiles) == pytest.approx(1)
    assert gene_error(profiles.true_NT, profiles) == 0
    off = profiles.true_NT + 3
    assert gene_error(off, profiles) == pytest.approx(3, rel=1e-5)
    assert cell_correlation(-off, profiles) == pytest.approx(-1, rel=1e-5)


def test_mixing_tells_cells_of_one_kind_from_cells_of_another() -> None:
    rng = np.random.default_rng(0)
    type_N = np.zeros(200, np.int64)
    real, alike = (rng.normal(size=(200, 30)).astype(np.float32) for _ in range(2))
    assert mixing(alike, real, type_N) == pytest.approx(1, abs=0.1)
    assert mixing(alike + 10, real, type_N) == 0


def test_generation_is_assessed_beside_simple_predictors(resources: Path) -> None:
    adata = ad.read_h5ad(resources / "cells/pbmc3k_160_balanced.h5ad")[::2].copy()
    adata.obs[LABEL] = adata.obs["cell_type"]
    vocab = Vocabulary([*SPECIAL_TOKENS, *adata.var_names[:2000]])
    model = make_model(vocab.n_tokens)
    ckpt = Checkpoint(model, vocab, model.config, LoadReport((), (), (), ()), "random")
    scores = assess_generation(adata, ckpt, rounds=(1, 3), max_tokens=100, max_cells=16)
    values = scores.set_index(["prompt", "predictor", "metric"])["value"]
    assert set(scores["predictor"]) == {
        "scGPT", "scGPT, 3 rounds", "mean of the type", "real cell of the type"
    }  # fmt: skip
    error = values.xs("gene_error", level="metric")
    for prompt in ("genes", "cell"):
        assert error[prompt, "mean of the type"] < error[prompt, "real cell of the type"]
        assert 5 < error[prompt, "scGPT"] < 50
