"""Errors by share of unknown genes, and the simple predictors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from scgpt_core.batch import Batch
from scgpt_core.train.evaluation import generation_errors, model_predictor
from scgpt_core.train.objectives import Pretraining, is_gene
from scgpt_core.train.parallel import World
from scgpt_core.train.predictors import GeneMean, RidgeOnPCA


def test_errors_are_means_over_positions_by_share() -> None:
    """Three cells of four genes, of which 1, 2 and 3 are unknown and off by 1, 2 and 3."""
    hidden_BL = torch.tensor(
        [[0, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0]], dtype=torch.bool
    )
    padding_BL = torch.tensor([[False] * 5 + [True]] * 3)
    target_BL = torch.full((3, 6), 10.0)
    batch = Batch(
        ids_BL=torch.zeros(3, 6, dtype=torch.int64),
        values_BL=target_BL,
        padding_BL=padding_BL,
        target_BL=target_BL,
        hidden_BL=hidden_BL,
    )
    guess_BL = target_BL + torch.tensor([[1.0], [2.0], [3.0]])
    errors = generation_errors(lambda batch: {"gep": (guess_BL, hidden_BL)}, [batch], tiny.SHARES)
    assert errors == {
        "gep": pytest.approx((1 + 2 * 4 + 3 * 9) / 6),
        "gep@0.25": 1.0,
        "gep@0.5": 4.0,
        "gep@0.75": 9.0,
    }


@dataclass(frozen=True)
class Listening(World):
    """One of several processes, that keeps what it would add up with the others."""

    said: list[list[float]] = field(default_factory=list)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Keep the values."""
        self.said.append([*values])
        return [*values]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_share_out_the_batches_and_run_equally_often(size: int) -> None:
    batches = make_batches(160, seed=3)
    expected = generation_errors(guess_flat, batches, [0.5])
    said, runs = [], []
    for rank in range(size):
        world = Listening(rank=rank, size=size, local_size=size, device=torch.device("cpu"))
        count: Counter[str] = Counter()

        def predict(batch: Batch, count: Counter[str] = count) -> Any:
            count["runs"] += 1
            return guess_flat(batch)

        generation_errors(predict, batches, [0.5], world=world)
        said.append(world.said)
        runs.append(count["runs"])
    squares, numbers = np.sum(said, axis=0)
    assert squares / numbers == pytest.approx(expected["gep"])
    assert numbers.sum() == sum(int(batch.hidden_BL.sum()) for batch in batches)
    assert runs == [-(-len(batches) // size)] * size


def guess_flat(batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {"gep": (torch.full_like(batch.target_BL, 25.0), batch.hidden_BL)}


def test_the_error_of_a_model_is_its_loss() -> None:
    model, batch = tiny.make_model().eval(), tiny.make_batch()
    objective = Pretraining(cell_prompt_after=0, unknown_value=-1)
    predict = model_predictor(model, objective, torch.device("cpu"))
    with torch.no_grad():
        errors = generation_errors(predict, [batch], tiny.SHARES)
        terms = objective(model, batch, 1.0)
    for name, term in terms.items():
        assert errors[name] == pytest.approx(term.item(), rel=1e-5)


def make_batches(n_cells: int, *, seed: int) -> list[Batch]:
    """Cells whose 20 genes' bins follow one hidden number of the cell, and half are unknown."""
    rng = np.random.default_rng(seed)
    slopes = np.random.default_rng(0).normal(0, 4, 20)
    state = rng.normal(size=(n_cells, 1))
    bins = 25 + np.arange(20) / 2 + state * slopes + rng.normal(0, 0.5, (n_cells, 20))
    shape = (n_cells, 21)
    hidden_BL = torch.zeros(shape, dtype=torch.bool)
    hidden_BL[:, 1:] = torch.from_numpy(rng.random((n_cells, 20)) < 0.5)
    target_BL = torch.zeros(shape)
    target_BL[:, 1:] = torch.from_numpy(bins)
    return [
        Batch(
            ids_BL=torch.arange(-1, 20).remainder(21).expand(shape),
            values_BL=target_BL,
            padding_BL=torch.zeros(shape, dtype=torch.bool),
            target_BL=target_BL,
            hidden_BL=hidden_BL,
        )
    ]


def test_the_gene_mean_is_the_mean_of_each_gene() -> None:
    (batch,) = make_batches(50, seed=1)
    mean = GeneMean.fit([batch], n_tokens=23)
    assert batch.target_BL is not None
    torch.testing.assert_close(mean.mean_T[:20], batch.target_BL[:, 1:].mean(0))
    overall = batch.target_BL[:, 1:].mean()
    torch.testing.assert_close(mean.mean_T[20:], overall.expand(3))
    guess_BL, where_BL = mean(batch)["gep_prompt"]
    assert torch.equal(where_BL, is_gene(batch))
    torch.testing.assert_close(guess_BL[:, 1:], mean.mean_T[:20].expand(50, 20))


def test_ridge_finds_what_genes_have_in_common() -> None:
    train, test = make_batches(300, seed=1), make_batches(100, seed=2)
    mean = GeneMean.fit(train, n_tokens=21)
    ridge = RidgeOnPCA.fit(train, mean, seed=0)
    by_mean, by_ridge = (generation_errors(p, test, [0.5])["gep"] for p in (mean, ridge))
    assert by_mean > 10
    assert by_ridge < 2.5
