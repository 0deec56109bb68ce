"""Pretraining on real cells: the model folder, its report, and going on from another model."""

import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from scgpt_core.checkpoint import (
    Checkpoint,
    LoadReport,
    export_published,
    load_checkpoint,
    save_checkpoint,
)
from scgpt_core.config import ModelConfig, PretrainSettings
from scgpt_core.data import corpus as data_corpus
from scgpt_core.data.corpus import Corpus
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import SPECIAL_TOKENS
from scgpt_core.model import ScGPT
from scgpt_core.runs import read_json, sha256
from scgpt_core.train import pretraining
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.parallel import World
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


def test_other_cells_are_evaluated_also_where_training_is_over(
    corpus_folder: Path, tmp_path: Path
) -> None:
    """The model and the simple predictors on the cells that are asked for, not on earlier ones."""
    state, reports = tmp_path / "state", {}
    for name, folder in (("again", state), ("again", state), ("fresh", tmp_path / "other")):
        settings = make_settings(evaluate_cells=64 if reports or name == "fresh" else 32)
        assert pretrain(corpus_folder, tmp_path / name, settings, seed=0, state_folder=folder)
        reports[name] = read_json(tmp_path / name / "training.json")
    for key in ("errors", "baselines"):
        assert reports["again"][key] == reports["fresh"][key]
    lines = read_metrics(tmp_path / "again" / METRICS)
    assert [line["step"] for line in lines if line["split"] == "heldout"] == [2, 4]


def test_shards_are_hashed_once_by_the_processes_of_a_machine(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    monkeypatch.setattr(
        data_corpus, "sha256", lambda path: hashed.append(path.name) or sha256(path)
    )
    briefly = make_settings(trainer={"time_budget_minutes": 1e-9})
    pretrain(corpus_folder, tmp_path / "model", briefly, seed=0, state_folder=tmp_path / "state")
    assert hashed == ["shard_0.arrow", "shard_1.arrow", "shard_2.arrow"]
    hashed.clear()
    for rank in range(4):  # two machines of two
        pretraining._open(corpus_folder, World(rank, 4, 2, torch.device("cpu")))
    assert Counter(hashed) == dict.fromkeys(["shard_0.arrow", "shard_1.arrow", "shard_2.arrow"], 2)


def test_what_fails_in_one_process_fails_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(faults: list[str], own: str) -> None:
        faults[:] = [own, "shard_1.arrow was altered", "shard_1.arrow was altered"]

    monkeypatch.setattr(distributed, "all_gather_object", gather)
    world = World(0, 3, 3, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"\Ashard_1\.arrow was altered\Z"):
        world.together(lambda: 1)
    assert World(0, 1, 1, torch.device("cpu")).together(lambda: 1) == 1


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


def export_shuffled(folder: Path, vocab: Vocabulary) -> Checkpoint:
    """A published folder: symbols for tokens, in another order, every tenth gene another one."""
    symbols = [vocab.symbols[id_] for id_ in vocab.gene_ids]
    unique = sorted(name for name, n in Counter(symbols).items() if n == 1)
    kept = [name for i, name in enumerate(unique) if i % 10]
    others = [f"NOVEL{i}" for i in range(200)]
    theirs = Vocabulary([*kept[::-1], *others, *SPECIAL_TOKENS])
    torch.manual_seed(5)
    config = ModelConfig(
        width=16, n_layers=1, n_heads=2, ffn_width=16, n_tokens=theirs.n_tokens,
        pad_id=theirs.pad_id, cls_id=theirs.cls_id,
    )  # fmt: skip
    model = ScGPT(config).eval()
    ckpt = Checkpoint(model, theirs, config, LoadReport((), (), (), ()), "shuffled")
    export_published(ckpt, folder)
    return ckpt


def test_training_goes_on_from_a_published_folder_of_another_vocabulary(
    corpus_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Vocabulary.load(corpus_folder / "vocab.json")
    theirs = export_shuffled(tmp_path / "published", ours)
    with caplog.at_level(logging.INFO):
        pretrain(
            corpus_folder,
            tmp_path / "model",
            make_settings(trainer={"learning_rate": 1e-9}),
            seed=1,
            state_folder=tmp_path / "state",
            init_from=tmp_path / "published",
        )
    assert "the model has another vocabulary" in caplog.text
    found = load_checkpoint(tmp_path / "model", device="cpu")
    assert found.vocab.digest == ours.digest
    tables = [ckpt.model.get_parameter("gene_embedding.table.weight") for ckpt in (found, theirs)]
    place = theirs.vocab.ids(ours.symbols)
    shared = (place >= 0).nonzero()[0]
    assert len(shared) > 0.8 * ours.n_tokens
    is_moved = (tables[0][shared] - tables[1][place[shared]]).abs().amax(1) < 1e-6
    assert is_moved.float().mean() > 0.99  # a few symbols are of two genes in the gene table
    unknown = (place < 0).nonzero()[0]
    assert (tables[0][unknown].std() - 0.2 / 12**0.5).abs() < 0.01  # as new weights are
    for name, weight in theirs.model.named_parameters():
        if name != "gene_embedding.table.weight":
            assert (found.model.get_parameter(name) - weight).abs().max() < 1e-6, name
    digest = load_checkpoint(tmp_path / "published", device="cpu").digest
    assert read_json(tmp_path / "model/training.json")["init_from"] == digest


@pytest.mark.parametrize(
    ("settings", "rename", "said"),
    [
        ({"n_bins": 31}, False, "has 51 bins, this run 31: set pretrain.n_bins"),
        ({}, True, r"0\.0% of the genes have a token in the vocabulary, 50\.0% are required"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    corpus_folder: Path,
    model_folder: Path,
    tmp_path: Path,
    settings: dict[str, int],
    rename: bool,
    said: str,
) -> None:
    origin = shutil.copytree(model_folder, tmp_path / "origin")
    if rename:
        tokens = Vocabulary.load(origin / "vocab.json").tokens
        others = [t if t in SPECIAL_TOKENS else f"probe{i}" for i, t in enumerate(tokens)]
        Vocabulary(others).save(origin / "vocab.json")
    with pytest.raises(ValueError, match=said):
        pretrain(
            corpus_folder,
            tmp_path / "model",
            make_settings(**settings),
            seed=0,
            state_folder=tmp_path / "state",
            init_from=origin,
        )


def test_a_variant_for_a_task_is_no_start(
    corpus_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    ckpt = load_checkpoint(model_folder, device="cpu")
    variant = {"explicit_zero_prob": True, "batch_norm": "domain", "n_batches": 2}
    model = ScGPT(ModelConfig.model_validate(ckpt.config.model_dump() | variant))
    save_checkpoint(tmp_path / "origin", model, ckpt.vocab, training={})
    with pytest.raises(ValueError, match=r"\(batch_norm: domain, explicit_zero_prob: True\)"):
        pretrain(
            corpus_folder,
            tmp_path / "model",
            make_settings(),
            seed=0,
            state_folder=tmp_path / "state",
            init_from=tmp_path / "origin",
        )


@pytest.mark.parametrize("shares", [[], [0.0], [1.0]])
def test_shares_with_nothing_to_predict_or_to_know_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="unknown_shares"):
        make_settings(unknown_shares=shares)


def test_balanced_data_sets_are_visited_alike(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_loader, visits, sizes = pretraining._loader, Counter(), Counter()

    def spy(corpus: Corpus, *args: Any, **options: Any) -> ShardLoader:
        names = corpus.obs("dataset_id").to_pylist()
        cell_ids = corpus.cells(np.arange(corpus.n_cells)).cell_ids.tolist()
        name_of = dict(zip(cell_ids, names, strict=True))
        sizes.update(names)
        for batch in make_loader(corpus, *args, **options).batches():  # an epoch
            visits.update(name_of[cell] for cell in batch.cell_B.tolist())
        return make_loader(corpus, *args, **options)

    monkeypatch.setattr(pretraining, "_loader", spy)
    settings = make_settings(balance_by="dataset_id", balance_strength=1, steps=1)
    assert pretrain(
        corpus_folder, tmp_path / "model", settings, seed=0, state_folder=tmp_path / "state"
    )
    assert sorted(sizes.values()) == [31, 60, 100]
    assert sorted(visits.values()) == [63, 64, 64]
