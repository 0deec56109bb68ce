"""Objectives: what they score, what they must not see, and the means of the global batch."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import load_weights
from scgpt_core.model import ScGPT
from scgpt_core.published import read_config, to_ours
from scgpt_core.runs import read_json
from scgpt_core.train.objectives import (
    Classification,
    Integration,
    Objective,
    Pretraining,
    class_weights,
)

GOLDEN = Path(__file__).parents[1] / "golden"
PRETRAINING = Pretraining(cell_prompt_after=0.5, unknown_value=-1)


def test_pretraining_scores_unknown_genes_then_joins_the_cell_prompt() -> None:
    model, batch = tiny.make_model().eval(), tiny.make_batch()
    early, late = PRETRAINING(model, batch, 0.49), PRETRAINING(model, batch, 0.5)
    assert set(early) == {"gep", "gepc"}
    assert set(late) == {"gep", "gepc", "gep_prompt"}
    assert PRETRAINING.passes(0.49) == 1
    assert PRETRAINING.passes(0.5) == 2
    output = model(batch)
    assert batch.hidden_BL is not None
    expected = F.mse_loss(output.gep_BL[batch.hidden_BL], batch.target_BL[batch.hidden_BL])
    torch.testing.assert_close(late["gep"], expected)


def test_an_unknown_gene_is_seen_by_itself_alone() -> None:
    model, batch = tiny.make_model().eval(), tiny.make_batch()
    hidden_BL = batch.hidden_BL
    assert hidden_BL is not None
    at_B = hidden_BL.float().argmax(1)  # the first unknown gene of each cell
    rows = torch.arange(len(at_B))
    ids_BL = batch.ids_BL.clone()
    ids_BL[rows, at_B] = (ids_BL[rows, at_B] + 1) % tiny.N_GENES
    before, _ = PRETRAINING.predict(model, batch, prompt=False)
    after, _ = PRETRAINING.predict(model, batch._replace(ids_BL=ids_BL), prompt=False)
    changed_BL = (before.gep_BL != after.gep_BL) & ~batch.padding_BL
    assert changed_BL[rows, at_B].all()
    assert changed_BL.sum() == len(rows)
    torch.testing.assert_close(before.cell_BD, after.cell_BD, rtol=0, atol=0)


def test_the_cell_prompted_pass_reads_no_value() -> None:
    model, batch = tiny.make_model().eval(), tiny.make_batch()
    prompt_BD = torch.randn(len(batch.ids_BL), model.config.width)
    values_BL = torch.where(batch.padding_BL, batch.values_BL, 7.0)
    values_BL[:, 0] = batch.values_BL[:, 0]
    first, second = (
        model(PRETRAINING.cell_prompted(cells), heads={"gep"}, prompt_BD=prompt_BD)
        for cells in (batch, batch._replace(values_BL=values_BL))
    )
    torch.testing.assert_close(first.gep_BL, second.gep_BL, rtol=0, atol=0)


def test_condition_tokens_are_optional_and_reach_both_passes() -> None:
    """Batches of cells and flags of genes are read where the model has a place for them."""
    batch = tiny.make_batch()._replace(batch_B=torch.arange(8) % 2)
    batch = batch._replace(perturbed_BL=torch.zeros_like(batch.ids_BL))
    plain = PRETRAINING(tiny.make_model().eval(), batch, 1.0)
    model = tiny.make_model(n_batches=2, batch_labels=True, perturbation_flags=3).eval()
    PRETRAINING(model, batch, 1.0)["gep_prompt"].backward()
    assert model.get_parameter("batch_embedding.table.weight").grad.abs().sum() > 0
    assert model.get_parameter("flag_embedding.weight").grad[0].abs().sum() > 0
    flagged = batch._replace(perturbed_BL=torch.ones_like(batch.ids_BL))
    for name, term in PRETRAINING(model, flagged, 1.0).items():
        assert term != PRETRAINING(model, batch, 1.0)[name]
        assert plain.keys() == PRETRAINING(model, batch, 1.0).keys()


def test_the_cell_prompt_does_not_train_the_embedding_that_it_is_given() -> None:
    model, batch = tiny.make_model().eval(), tiny.make_batch()
    PRETRAINING(model, batch, 1.0)["gep_prompt"].backward()
    through_objective = [p.grad for p in model.parameters()]
    model.zero_grad()
    with torch.no_grad():
        prompt_BD = model(batch, heads=()).cell_BD
    prompted = PRETRAINING.cell_prompted(batch)
    output = model(prompted, heads={"gep"}, prompt_BD=prompt_BD)
    is_gene = prompted.hidden_BL
    F.mse_loss(output.gep_BL[is_gene], batch.target_BL[is_gene]).backward()
    for found, parameter in zip(through_objective, model.parameters(), strict=True):
        assert (found is None) == (parameter.grad is None)
        if found is not None:
            torch.testing.assert_close(found, parameter.grad)


def split(batch: Batch, n_cells: int) -> list[Batch]:
    parts = [[None] * len(batch.ids_BL) if t is None else t.split(n_cells) for t in batch]
    return [Batch(*part) for part in zip(*(part[: len(parts[0])] for part in parts), strict=False)]


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        (PRETRAINING, {}),
        (
            Integration(gepc=True, zero_prob=True, ecs_threshold=0.8, ecs_weight=0, dar_weight=1.0),
            {"explicit_zero_prob": True, "n_batches": 2, "dar": True},
        ),
        (Classification(torch.tensor([1.0, 2.0, 0.5])), {"n_classes": 3}),
    ],
    ids=["pretraining", "integration", "classification"],
)
def test_micro_batches_weighed_by_their_sizes_give_the_global_gradient(
    objective: Objective, changes: dict[str, int]
) -> None:
    """Of cells with very different numbers of unknown genes; ECS alone compares within a batch."""
    model = tiny.make_model(**changes).eval()
    batch = tiny.make_batch(9)._replace(
        batch_B=torch.arange(9) % 2, label_B=torch.tensor([0, 1, 2, -1, 0, 0, -1, -1, -1])
    )
    sum(objective(model, batch, 1.0).values()).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    whole = objective.sizes(batch)
    for part in split(batch, 3):
        sizes = objective.sizes(part)
        terms = objective(model, part, 1.0)
        sum(term * sizes[name] / whole[name] for name, term in terms.items()).backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max()
        )


def test_a_step_of_cells_of_little_weight_counts_as_any_other(tmp_path: Path) -> None:
    """Where a type is frequent, its weights may add up to less than one cell."""
    trainer = tiny.make_trainer(tmp_path, steps=1, model=tiny.make_model(n_classes=2))
    trainer.objective = Classification(torch.tensor([0.05, 1.0]))
    batch = tiny.make_batch(9)._replace(label_B=torch.zeros(9, dtype=torch.int64))
    shares = trainer._count(split(batch, 3), 0.0)
    assert sum(share["cls"] for share in shares) == pytest.approx(1)


def test_integration_has_the_terms_of_the_published_step() -> None:
    settings = read_json(GOLDEN / "integration/config.json")
    weights = {
        to_ours(name): tensor
        for name, tensor in load_file(GOLDEN / "integration/weights.safetensors").items()
    }
    args = {
        "nheads": settings["nhead"],
        "pad_value": settings["pad_value"],
        "n_bins": 51,
        "dropout": 0.0,
        **settings["class_kwargs"],
    }
    config = read_config(args, weights, pad_id=settings["pad_id"], cls_id=settings["cls_id"])
    model = ScGPT(config)
    load_weights(model, weights)
    stored = load_file(GOLDEN / "integration/arrays.safetensors")
    batch = Batch(
        ids_BL=stored["ids"],
        values_BL=stored["masked_values"],
        padding_BL=stored["padding_mask"],
        target_BL=stored["values"],
        hidden_BL=stored["mask"],
        batch_B=stored["batch_labels"],
    )
    objective = Integration(
        gepc=True, zero_prob=True, ecs_threshold=0.3, ecs_weight=10, dar_weight=1
    )
    terms = objective(model, batch, 0.0)
    published = {
        "gep": "loss_gep", "gep_zero": "loss_gep_zero", "gepc": "loss_mvc",
        "gepc_zero": "loss_mvc_zero", "ecs": "loss_ecs_train", "dar": "loss_dab",
    }  # fmt: skip
    assert set(terms) == set(published)
    for name, theirs in published.items():
        torch.testing.assert_close(terms[name].detach(), stored[theirs], rtol=1e-5, atol=1e-5)
    total = torch.stack(list(terms.values())).sum()
    torch.testing.assert_close(total.detach(), stored["loss_total"], rtol=1e-5, atol=1e-5)


def test_integration_leaves_out_what_has_no_weight() -> None:
    objective = Integration(
        gepc=False, zero_prob=False, ecs_threshold=0.8, ecs_weight=0, dar_weight=0
    )
    assert set(objective(tiny.make_model(), tiny.make_batch(), 0.0)) == {"gep"}


def test_classification_is_the_weighted_mean_over_labelled_cells() -> None:
    model, weights_C = tiny.make_model(n_classes=3).eval(), torch.tensor([1.0, 2.0, 0.5])
    batch = tiny.make_batch(4)._replace(label_B=torch.tensor([0, 2, 1, -1]))
    logits_BC = model(batch, heads={"cls"}).class_BC
    expected = F.cross_entropy(logits_BC[:3], batch.label_B[:3], weight=weights_C)
    torch.testing.assert_close(Classification(weights_C)(model, batch, 0.0)["cls"], expected)
    unlabelled = batch._replace(label_B=torch.full((4,), -1))
    assert Classification()(model, unlabelled, 0.0)["cls"] == 0
    assert Classification().sizes(unlabelled) == {"cls": 0}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 0, 0, 1], [2 / 3, 2.0]), ([0, 0, -1], [1.0, 0.0]), ([0, 1], [1.0, 1.0])],
)
def test_class_weights_let_classes_count_alike(labels: list[int], expected: list[float]) -> None:
    found: Tensor = class_weights(torch.tensor(labels), 2)
    torch.testing.assert_close(found, torch.tensor(expected))
