"""A tiny model learns what a knock-out does, from control cells and flags."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from screen import GENES, make_screen
from tiny_model import save_tiny_model

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import PerturbationSettings
from scgpt_core.perturbation.data import Perturbations, read_perturbations
from scgpt_core.perturbation.finetuning import fit, perturb_dataset, stratum_shifts
from scgpt_core.perturbation.pairs import NOT_PERTURBED, PERTURBED, PairLoader
from scgpt_core.perturbation.splits import make_split
from scgpt_core.perturbation.variant import add_tokens, make_model, make_tokens, scale_predictions
from scgpt_core.runs import read_json, sha256
from scgpt_core.tasks.fitting import Job
from scgpt_core.train.parallel import World

SETTINGS: dict[str, Any] = {
    "split": {"n_folds": 2, "validation_share": 0.3},
    "control_cells": 20,
    "pair_genes": 2,
    "max_genes": 12,
    "target": "shift",
    "target_value": "zero",
    "context": True,
    "freeze_genes": True,
    "steps": 150,
    "trainer": {"batch_cells": 8, "micro_batch_cells": 8, "learning_rate": 5e-3,
                "device": "cpu", "precision": "float32"},
}  # fmt: skip


def settings(**changes: object) -> PerturbationSettings:
    return PerturbationSettings.model_validate(SETTINGS | changes)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that lacks a measured gene (CD3D) and two perturbed ones."""
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny", [*GENES[1:], "IFNGR1", "IFNGR2", "JAK2"]
    )


@pytest.fixture
def ckpt(model_folder: Path) -> Checkpoint:
    return load_checkpoint(model_folder, "cpu")


@pytest.fixture(scope="module")
def data() -> Perturbations:
    return read_perturbations(make_screen())


def loader(data: Perturbations, ckpt: Checkpoint, *, seed: int = 0, **ranks: int) -> PairLoader:
    known = add_tokens(ckpt, data, min_matched=0.5)
    return PairLoader(
        data,
        ~data.is_control,
        make_tokens(known, data, settings()),
        shift_CSG=None,
        max_genes=12,
        batch_cells=24,
        micro_batch_cells=8,
        seed=seed,
        **ranks,
    )


def test_genes_without_a_token_get_one_and_the_others_keep_theirs(
    data: Perturbations, ckpt: Checkpoint
) -> None:
    known = add_tokens(ckpt, data, min_matched=0.5)
    assert known.vocab.tokens[: ckpt.vocab.n_tokens] == ckpt.vocab.tokens
    assert known.vocab.tokens[ckpt.vocab.n_tokens :] == ["CD3D", "CUL3", "SMAD4"]
    old, new = (c.model.gene_embedding.table.weight for c in (ckpt, known))
    torch.testing.assert_close(new[: len(old)], old)
    torch.testing.assert_close(new[-1], old[ckpt.vocab.gene_ids].mean(0))
    with pytest.raises(ValueError, match="have a token in the vocabulary"):
        add_tokens(ckpt, data, min_matched=0.99)


def test_perturbed_genes_are_always_tokens(data: Perturbations, ckpt: Checkpoint) -> None:
    pairs = loader(data, ckpt)
    stat1 = pairs.tokens.id_of["STAT1"]
    n_drawn = set()
    for _, batches in zip(range(pairs.steps_per_epoch), pairs, strict=False):
        for batch in batches:
            assert batch.perturbed_BL is not None
            flagged = batch.perturbed_BL == PERTURBED
            assert (flagged.sum(1) == 1).all()
            assert (batch.ids_BL[flagged] != ckpt.vocab.pad_id).all()
            assert (batch.values_BL[flagged] == 0).all()  # knocked out
            assert batch.hidden_BL is not None
            assert (batch.hidden_BL.sum(1) == 12).all()
            n_drawn.add(int((batch.ids_BL == stat1).sum()))
            first = batch.ids_BL[:, 1:13]
            assert (first == first[:1]).all() or flagged[:, 1:13].any()
            assert (batch.perturbed_BL[:, 0] == NOT_PERTURBED).all()
    assert len(n_drawn) > 1  # measured, and drawn in some steps only


def test_batches_do_not_depend_on_processes_and_resume(
    data: Perturbations, ckpt: Checkpoint
) -> None:
    alone = loader(data, ckpt)
    steps = [step for step, _ in zip(alone, range(18), strict=False)]
    halves = [iter(loader(data, ckpt, rank=rank, world_size=2)) for rank in (0, 1)]
    for step in steps[:3]:
        shared = [batch for half in halves for batch in next(half)]
        cells = torch.cat([b.cell_B for b in shared if b.cell_B is not None])
        expected = torch.cat([b.cell_B for b in step if b.cell_B is not None])
        torch.testing.assert_close(cells.sort().values, expected.sort().values)
    half_way = loader(data, ckpt)
    for _ in zip(range(16), half_way, strict=False):  # an epoch has 15 steps
        state = half_way.state_dict()
    later = loader(data, ckpt)
    later.load_state_dict(state)
    for batch, expected in zip(next(iter(later)), steps[16], strict=True):
        torch.testing.assert_close(batch.values_BL, expected.values_BL)
        torch.testing.assert_close(batch.target_BL, expected.target_BL)
    with pytest.raises(ValueError, match="other perturbed cells"):
        later.load_state_dict({**state, "cells": "0"})


def test_partners_are_controls_of_the_same_batch(data: Perturbations, ckpt: Checkpoint) -> None:
    pairs = loader(data, ckpt)
    rows = np.flatnonzero(~data.is_control)
    partners = pairs._partners(rows)
    assert data.is_input[partners].all()
    np.testing.assert_array_equal(data.batch_N[partners], data.batch_N[rows])


@pytest.mark.parametrize(("value", "expected"), [("kept", "own"), ("highest", "highest")])
def test_what_stands_for_the_expression_of_a_perturbed_gene(
    data: Perturbations, ckpt: Checkpoint, value: str, expected: str
) -> None:
    known = add_tokens(ckpt, data, min_matched=0.5)
    tokens = make_tokens(known, data, settings(target_value=value))
    rows = np.flatnonzero(data.is_input)[:4]
    batch = tokens.batch(data.log_NG[rows], [("STAT1",)] * 4, data.cell_ids[rows])
    column = data.column_of["STAT1"]
    own = data.log_NG[rows][:, column].toarray().ravel()
    highest = data.log_NG[data.is_input][:, column].max()
    found = batch.values_BL[batch.perturbed_BL == PERTURBED]
    wanted = own if expected == "own" else np.full(4, highest)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_mean_change_is_that_of_each_batch(data: Perturbations) -> None:
    shift_CSG = stratum_shifts(data, ~data.is_control & (data.batch_N == "rep_0"))
    assert shift_CSG.shape == (6, 2, len(GENES))
    assert not shift_CSG[:, 1].any()
    fallen = shift_CSG[data.conditions.index("SMAD4+ctrl"), 0].argsort()[:2]
    assert {GENES[i] for i in fallen} == {"LYZ", "CST3"}


def test_pathways_draw_gene_embeddings_together(data: Perturbations, ckpt: Checkpoint) -> None:
    known = add_tokens(ckpt, data, min_matched=0.5)
    tokens = make_tokens(known, data, settings())
    sets = {
        "a": ["IFNGR1", "IFNGR2", "JAK2", "JAK1", "STAT1"],
        "b": ["LYZ", "CST3", "CD74", "MX1", "OAS1"],
    }
    cosines = []
    for start in ("inherited", "pathways"):
        chosen = settings(gene_start=start)
        model = make_model(known, data, tokens, chosen, gene_sets=sets, init="pretrained", seed=0)
        assert not model.gene_embedding.table.weight.requires_grad
        first, second = (
            model.gene_embedding.table.weight[tokens.id_of[g]] for g in ("IFNGR1", "IFNGR2")
        )
        cosines.append(torch.cosine_similarity(first, second, dim=0).item())
    assert cosines[1] > max(cosines[0], 0.4)


@pytest.mark.parametrize("affine", [True, False])
def test_predictions_are_scaled(data: Perturbations, ckpt: Checkpoint, *, affine: bool) -> None:
    known = add_tokens(ckpt, data, min_matched=0.5)
    chosen = settings(affine=affine)
    tokens = make_tokens(known, data, chosen)
    model = make_model(known, data, tokens, chosen, gene_sets={}, init="random", seed=0).eval()
    rows = np.flatnonzero(data.is_input)[:4]
    batch = tokens.batch(data.log_NG[rows], [("JAK2", "CUL3")] * 4, data.cell_ids[rows])
    before = model(batch, heads={"gep"}).gep_BL
    scale_predictions(model, 0.25)
    torch.testing.assert_close(model(batch, heads={"gep"}).gep_BL, before / 4)


@pytest.mark.parametrize(("tune", "rank"), [("frozen", 0), ("lora", 2)])
def test_what_is_trained_of_the_layers(
    data: Perturbations, ckpt: Checkpoint, tmp_path: Path, *, tune: str, rank: int
) -> None:
    known = add_tokens(ckpt, data, min_matched=0.5)
    trainer = SETTINGS["trainer"] | {"tune": tune, "lora_rank": 2}
    chosen = settings(steps=3, trainer=trainer)
    tokens = make_tokens(known, data, chosen)
    model = make_model(known, data, tokens, chosen, gene_sets={}, init="pretrained", seed=0)
    genes, layer = model.gene_embedding.table.weight, model.layers[0].attention.qkv
    genes_before, before = genes.detach().clone(), layer.weight.detach().clone()
    split = make_split(data, chosen.split, dataset_sha256="0", seed=1)
    alone = World(rank=0, size=1, local_size=1, device=torch.device("cpu"))
    job = Job(alone, ckpt, "pretrained", 0, tmp_path, {}, {})
    fitted = fit(model, data, split.folds[0], tokens, chosen, job)
    assert fitted.record["steps"] == 3
    assert fitted.record["trained_weights"] < fitted.record["weights"]
    assert torch.linalg.matrix_rank(layer.weight.detach() - before, atol=1e-6) == rank
    torch.testing.assert_close(genes.detach(), genes_before)  # freeze_genes


@pytest.mark.slow
def test_a_model_learns_what_pathways_predict(model_folder: Path, tmp_path: Path) -> None:
    make_screen().write_h5ad(tmp_path / "screen.h5ad")
    data = read_perturbations(make_screen())
    chosen = settings(gene_start="pathways")
    split = make_split(data, chosen.split, dataset_sha256=sha256(tmp_path / "screen.h5ad"), seed=1)
    split.save(tmp_path / "split.json")
    genes = ["IFNGR1", "IFNGR2", "JAK2", "STAT1", "JAK1"]
    (tmp_path / "sets.gmt").write_text("\t".join(["signalling", "", *genes]) + "\n")
    perturb_dataset(
        tmp_path / "screen.h5ad",
        model_folder,
        tmp_path / "out",
        tmp_path / "state",
        split=tmp_path / "split.json",
        gene_sets=tmp_path / "sets.gmt",
        settings=chosen,
        init="pretrained",
        seed=0,
    )
    predicted = ad.read_h5ad(tmp_path / "out/predictions.h5ad")
    assert predicted.n_obs == 20 * len(data.conditions)
    controls = pd.Series(np.arange(len(data.names)), index=data.names)
    before = data.log_NG[controls[predicted.obs["control_cell"]].to_numpy()].toarray()
    change = pd.DataFrame(predicted.X - before, columns=GENES).groupby(
        predicted.obs["condition"].to_numpy()
    )
    assert (change.mean().loc["JAK2+ctrl", ["PSMB9", "ISG15", "STAT1"]] < -0.2).all()
    assert change.std().to_numpy().max() > 0  # cells are told apart
    run = read_json(tmp_path / "out/run.json")
    assert [len(fit["test"]) for fit in run["fits"]] == [3, 3]
    assert run["fits"][0]["curve"]
    tuned = load_checkpoint(tmp_path / "out/models/0", "cpu")
    assert tuned.config.perturbation_context
    assert not (tmp_path / "state").exists()
