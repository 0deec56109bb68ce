"""Condition tokens: what the model is told of a cell beside its expression."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TOKENS, make_batch, make_cells, make_model

from scgpt_core.checkpoint import export_published, load_checkpoint
from scgpt_core.config import PretrainSettings
from scgpt_core.data.collate import to_batch
from scgpt_core.data.corpus import open_corpus
from scgpt_core.train.origin import list_conditions, number_conditions
from scgpt_core.train.pretraining import pretrain

COLUMN = "dataset_id"
SETTINGS = {
    "architecture": {"width": 16, "n_layers": 1, "n_heads": 2, "ffn_width": 16},
    "max_tokens": 32,
    "steps": 4,
    "evaluate_cells": 32,
    "condition_by": COLUMN,
    "trainer": {"batch_cells": 16, "device": "cpu"},
}


@pytest.fixture(scope="module")
def model_folder(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    settings = PretrainSettings.model_validate(SETTINGS)
    pretrain(corpus_folder, folder / "model", settings, seed=0, state_folder=folder / "state")
    return folder / "model"


def test_a_condition_shifts_all_tokens_of_its_cells_and_untold_ones_stay() -> None:
    model = make_model(conditions=("blood", "lung")).eval()
    batch = make_batch(3)
    plain = model(batch, heads=()).cell_BD
    untold = batch._replace(condition_B=torch.zeros(3, dtype=torch.int64))
    assert torch.equal(plain, model(untold, heads=()).cell_BD)
    torch.nn.init.normal_(model.condition_embedding.weight[1:])
    told = model(batch._replace(condition_B=torch.tensor([0, 1, 2])), heads=()).cell_BD
    assert torch.allclose(told[0], plain[0], atol=1e-6)
    assert not torch.allclose(told[1], plain[1], atol=0.1)
    assert not torch.allclose(told[2], plain[2], atol=0.1)


def test_a_share_of_the_cells_is_not_told_and_it_follows_from_the_visit() -> None:
    cells = make_cells(2000)
    settings = dataclasses.replace(TOKENS, condition_dropout=0.3)
    condition_B = np.full(2000, 2)
    first, again, later = (
        to_batch(cells, settings, seed=1, epoch=epoch, condition_B=condition_B).condition_B
        for epoch in (0, 0, 1)
    )
    assert first.unique().tolist() == [0, 2]
    assert (first == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    some = np.array([5, 1999])
    apart = to_batch(cells, settings, seed=1, rows=some, condition_B=condition_B[some])
    assert torch.equal(apart.condition_B, first[some])


def test_pretraining_learns_a_vector_for_each_condition(
    corpus_folder: Path, model_folder: Path
) -> None:
    corpus = open_corpus(corpus_folder, split="train")
    names = list_conditions(corpus, COLUMN)
    ckpt = load_checkpoint(model_folder, device="cpu")
    assert ckpt.config.conditions == names
    assert len(names) == len(set(corpus.obs(COLUMN).to_pylist())) > 1
    table_CD = ckpt.model.condition_embedding.weight
    assert not table_CD[0].any()
    assert (table_CD[1:].abs().amax(dim=1) > 0).all()


def test_a_condition_that_the_model_does_not_know_is_not_told(corpus_folder: Path) -> None:
    corpus = open_corpus(corpus_folder)
    values = corpus.obs(COLUMN).to_pylist()
    known = sorted(set(values))[1:]
    numbers_N = number_conditions(corpus, known, COLUMN)
    assert numbers_N.tolist() == [known.index(x) + 1 if x in known else 0 for x in values]


def test_conditions_go_by_name_to_a_model_that_trains_on(
    corpus_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    origin = load_checkpoint(model_folder, device="cpu")
    slow = SETTINGS | {"trainer": SETTINGS["trainer"] | {"learning_rate": 1e-9}}
    for column in (COLUMN, None):
        settings = PretrainSettings.model_validate(slow | {"condition_by": column})
        folder = tmp_path / str(column)
        pretrain(
            corpus_folder,
            folder / "model",
            settings,
            seed=1,
            state_folder=folder / "state",
            init_from=model_folder,
        )
        model = load_checkpoint(folder / "model", device="cpu").model
        if column is None:
            assert model.condition_embedding is None
        else:
            theirs = origin.model.condition_embedding.weight
            assert torch.allclose(model.condition_embedding.weight, theirs, atol=1e-6)


def test_conditions_are_not_lost_in_the_published_format(
    model_folder: Path, tmp_path: Path
) -> None:
    ckpt = load_checkpoint(model_folder, device="cpu")
    with pytest.raises(ValueError, match="the published code knows no conditions"):
        export_published(ckpt, tmp_path / "published")
