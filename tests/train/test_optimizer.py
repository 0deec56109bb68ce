"""The course of the learning rate, weight decay and clipping."""

from pathlib import Path

import pytest
import tiny
import torch

from scgpt_core.config import TrainerSettings
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.optimizer import build_optimizer, clip_gradients, learning_rate


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("exponential", 0, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ("cosine", 0, [1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381]),
        ("cosine", 4, [0.25, 0.5, 0.75, 1, 1, 0.8536, 0.5, 0.1464]),
    ],
)
def test_the_course_of_the_learning_rate(
    schedule: str, warmup_steps: int, expected: list[float]
) -> None:
    settings = TrainerSettings(
        learning_rate=1.0, schedule=schedule, warmup_steps=warmup_steps, decay=0.5
    )
    found = [learning_rate(step, settings, steps=8, steps_per_epoch=2) for step in range(8)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_run_follows_that_course(tmp_path: Path) -> None:
    course = {"schedule": "cosine", "warmup_steps": 2, "learning_rate": 1e-3}
    trainer = tiny.make_trainer(tmp_path, steps=5, trainer=course)
    trainer.run()
    found = [line["learning_rate"] for line in read_metrics(trainer.folder / METRICS)]
    expected = [
        learning_rate(step, trainer.settings, steps=5, steps_per_epoch=6) for step in range(5)
    ]
    assert found == pytest.approx(expected)


def test_vectors_do_not_decay_and_frozen_weights_are_left_out() -> None:
    model = tiny.make_model()
    model.gene_embedding.requires_grad_(requires_grad=False)
    optimizer = build_optimizer(model, TrainerSettings(weight_decay=0.5))
    matrices, vectors = optimizer.param_groups
    assert matrices["weight_decay"] == 0.5
    assert vectors["weight_decay"] == 0
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    trained = {p for p in model.parameters() if p.requires_grad}
    assert {*matrices["params"], *vectors["params"]} == trained


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    model = torch.nn.Linear(3, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 0.0, 4.0]])
    assert clip_gradients(model, None).item() == pytest.approx(5)
    assert model.weight.grad.norm().item() == pytest.approx(5)
    assert clip_gradients(model, 1.0).item() == pytest.approx(5)
    assert model.weight.grad.norm().item() == pytest.approx(1, rel=1e-5)
