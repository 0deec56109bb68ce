"""Pretraining on real cells: the model folder, its report, and going on from another model."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from scgpt_core.checkpoint import load_checkpoint
from scgpt_core.config import PretrainSettings
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.runs import read_json
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.pretraining import pretrain


def make_settings(*, trainer: dict[str, Any] | None = None, **changes: Any) -> PretrainSettings:
    settings: dict[str, Any] = {
        "architecture": {"width": 16, "n_layers": 1, "n_heads": 2, "ffn_width": 16},
        "max_tokens": 32,
        "steps": 4,
        "evaluate_steps": 2,
        "evaluate_cells": 32,
        "trainer": {"batch_cells": 16, "device": "cpu"} | (trainer or {}),
    }
    return PretrainSettings.model_validate(settings | changes)


@pytest.fixture(scope="module")
def model_folder(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    output, state = folder / "model", folder / "state"
    assert pretrain(corpus_folder, output, make_settings(), seed=0, state_folder=state)
    return output


def test_the_model_folder_is_whole_and_loads(model_folder: Path, corpus_folder: Path) -> None:
    assert {path.name for path in model_folder.iterdir()} == {
        "model.safetensors", "config.json", "vocab.json", "training.json", "README.md", METRICS,
    }  # fmt: skip
    ckpt = load_checkpoint(model_folder, device="cpu")
    assert ckpt.vocab.digest == Vocabulary.load(corpus_folder / "vocab.json").digest
    assert ckpt.config.max_tokens == 32


def test_the_report_has_errors_beside_those_of_simple_predictors(
    model_folder: Path, corpus_folder: Path
) -> None:
    report = read_json(model_folder / "training.json")
    manifest = read_json(corpus_folder / "manifest.json")
    assert report["corpus"]["digest"] == manifest["digest"]
    assert report["steps"] == 4
    assert report["cells"] == pytest.approx(64, abs=4)
    assert set(report["baselines"]) == {"gene_mean", "ridge"}
    for errors in (report["errors"], *report["baselines"].values()):
        for split in ("seen", "heldout"):
            assert {"gep", "gep@0.25", "gep@0.5", "gep@0.75"} <= errors[split].keys()
            assert 20 < errors[split]["gep"] < 500
    assert {"gepc", "gep_prompt"} <= report["errors"]["heldout"].keys()
    assert 0 < report["flops_use"] < 1
    assert {"versions", "commit", "seconds", "device", "seed"} <= report.keys()


def test_the_learning_curve_has_both_splits(model_folder: Path) -> None:
    lines = read_metrics(model_folder / METRICS)
    steps = {
        split: [line["step"] for line in lines if line["split"] == split]
        for split in ("train", "seen", "heldout")
    }
    assert steps == {"train": [4], "seen": [2, 4], "heldout": [2, 4]}


def test_a_run_that_is_stopped_writes_no_model_and_then_goes_on(
    corpus_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    output, state = tmp_path / "model", tmp_path / "state"
    briefly = make_settings(trainer={"time_budget_minutes": 1e-9})
    assert not pretrain(corpus_folder, output, briefly, seed=0, state_folder=state)
    assert not output.exists()
    assert pretrain(corpus_folder, output, make_settings(), seed=0, state_folder=state)
    expected, found = (load_checkpoint(f, device="cpu").digest for f in (model_folder, output))
    assert found == expected


def test_training_goes_on_from_another_model(
    corpus_folder: Path, model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    origin = load_checkpoint(model_folder, device="cpu")
    settings = make_settings(
        architecture={"width": 32, "n_layers": 2, "n_heads": 2, "ffn_width": 16},
        trainer={"learning_rate": 1e-9},
    )
    with caplog.at_level(logging.INFO):
        pretrain(
            corpus_folder,
            tmp_path / "model",
            settings,
            seed=1,
            state_folder=tmp_path / "state",
            init_from=model_folder,
        )
    found = load_checkpoint(tmp_path / "model", device="cpu")
    assert found.config.width == origin.config.width
    theirs = origin.model.state_dict()
    for name, weight in found.model.state_dict().items():
        assert (weight - theirs[name]).abs().max() < 1e-6, name
    assert read_json(tmp_path / "model/training.json")["init_from"] == origin.digest


def test_a_model_of_another_vocabulary_is_refused(
    corpus_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(model_folder, tmp_path / "other")
    vocab = Vocabulary.load(other / "vocab.json")
    vocab.tokens[5], vocab.tokens[6] = vocab.tokens[6], vocab.tokens[5]
    Vocabulary(vocab.tokens, vocab.symbols).save(other / "vocab.json")
    with pytest.raises(ValueError, match="vocabulary of digest"):
        pretrain(
            corpus_folder,
            tmp_path / "model",
            make_settings(),
            seed=0,
            state_folder=tmp_path / "state",
            init_from=other,
        )


def test_balanced_data_sets_make_another_model(
    corpus_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    balanced = make_settings(balance_by="dataset_id", balance_strength=1)
    assert pretrain(corpus_folder, output, balanced, seed=0, state_folder=tmp_path / "state")
    digests = [load_checkpoint(folder, device="cpu").digest for folder in (model_folder, output)]
    assert digests[0] != digests[1]
