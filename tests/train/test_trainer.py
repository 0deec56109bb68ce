"""The loop: resumption bit for bit, the global batch, early stop, budget, and the stop at NaN."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from scgpt_core import slurm
from scgpt_core.batch import Batch
from scgpt_core.data.loader import ShardLoader
from scgpt_core.model import ScGPT
from scgpt_core.train.guards import Patience
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.objectives import Pretraining
from scgpt_core.train.parallel import World
from scgpt_core.train.state import Checkpoints
from scgpt_core.train.trainer import Result


def run(folder: Path, **options: Any) -> tuple[Result, dict[str, torch.Tensor]]:
    trainer = tiny.make_trainer(folder, **options)
    result = trainer.run()
    return result, tiny.weights_of(trainer.model)


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_the_loss_falls(tmp_path: Path) -> None:
    result, _ = run(tmp_path, steps=30)
    losses = [line["gepc"] for line in read_metrics(result.folder / METRICS)]
    assert len(losses) == 30
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_a_term_that_joins_between_two_lines_is_the_mean_of_its_own_steps(tmp_path: Path) -> None:
    """It joins after 5 of 10 steps; lines of 4 steps, or of one."""
    by_four, by_one = (
        read_metrics(run(tmp_path / str(n), steps=10, trainer={"log_steps": n})[0].folder / METRICS)
        for n in (4, 1)
    )
    assert [line["step"] for line in by_four] == [4, 8, 10]
    assert "gep_prompt" not in by_one[4]
    own = [line["gep_prompt"] for line in by_one if 5 < line["step"] <= 8]
    assert by_four[1]["gep_prompt"] == pytest.approx(sum(own) / 3, rel=1e-5)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Over the end of an epoch (6 steps), into the second pass, between lines of the journal."""
    whole, expected = run(tmp_path / "whole", steps=10, trainer={"log_steps": 4})
    for budget in (1e-9, 1e-9, None):
        trainer = {"log_steps": 4, "time_budget_minutes": budget}
        result, weights = run(tmp_path / "parts", steps=10, trainer=trainer)
        assert result.finished == (budget is None)
    assert_equal(weights, expected)
    assert result.totals.step == whole.totals.step
    assert result.totals.cells == whole.totals.cells == 160
    timeless = [
        [
            {k: v for k, v in line.items() if not k.endswith("_per_s")}
            for line in read_metrics(r.folder / METRICS)
        ]
        for r in (result, whole)
    ]
    assert timeless[0] == timeless[1]


def test_a_finished_run_does_nothing(tmp_path: Path) -> None:
    first, weights = run(tmp_path, steps=4)
    again, same = run(tmp_path, steps=4)
    assert_equal(weights, same)
    assert again.totals == first.totals


def test_other_settings_never_go_on_from_these_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(**settings: Any) -> Path:
        trainer = tiny.make_trainer(tmp_path, **{"steps": 2} | settings)
        return trainer.folder

    first = folder()
    assert folder(trainer={"checkpoint_minutes": 1.0}) == first
    others = [
        folder(trainer={"learning_rate": 1e-3}),
        folder(steps=3),  # of which the learning rate is a function
        folder(patience=Patience("heldout", "loss", evaluations=2)),
        folder(patience=Patience("heldout", "loss", evaluations=3)),
        folder(patience=Patience("heldout", "loss", evaluations=3), evaluate_steps=2),
    ]
    monkeypatch.setattr("scgpt_core.train.trainer.is_pinned", lambda: True)
    others.append(folder())  # portable_numerics: the same settings, and other floats
    assert len({first, *others}) == 7


def losses_of(result: Result) -> list[float]:
    return [line["loss"] for line in read_metrics(result.folder / METRICS)]


def test_accumulation_keeps_the_course(tmp_path: Path) -> None:
    """Without dropout, whose draws belong to a micro-batch."""
    courses = [
        losses_of(
            run(
                tmp_path / str(n),
                steps=6,
                model=tiny.make_model(dropout=0.0),
                trainer={"micro_batch_cells": n},
            )[0]
        )
        for n in (16, 5)
    ]
    assert courses[0] == pytest.approx(courses[1], rel=1e-4)


def evaluate_by(values: list[float]) -> Any:
    remaining = iter(values)

    def evaluate(model: ScGPT) -> dict[str, dict[str, float]]:
        assert not model.training
        return {"heldout": {"loss": next(remaining)}}

    return evaluate


def test_dropout_is_drawn_anew_in_every_micro_batch_of_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    call = Pretraining.__call__

    def forward(self: Pretraining, *arguments: Any) -> Any:
        seeds.append(torch.initial_seed())
        return call(self, *arguments)

    monkeypatch.setattr(Pretraining, "__call__", forward)
    run(tmp_path / "one", steps=4)
    first = seeds.copy()
    seeds.clear()
    run(tmp_path / "two", steps=4, seed=1)
    assert len(first) == 4 * 4  # 16 cells a step, 4 at a time
    assert len({*first, *seeds}) == 2 * len(first)


def test_early_stop_keeps_the_best_weights(tmp_path: Path) -> None:
    constant = {"schedule": "constant"}
    result, weights = run(
        tmp_path / "stopped",
        steps=20,
        trainer=constant,
        evaluate=evaluate_by([5.0, 3.0, 4.0, 3.5, 1.0]),
        patience=Patience("heldout", "loss", evaluations=2),
    )
    assert result.finished
    assert result.totals.step == 4
    for _ in range(2):  # a budget of no time does one step
        budget = constant | {"time_budget_minutes": 1e-9}
        best = run(tmp_path / "best", steps=20, trainer=budget)
    assert best[0].totals.step == 2
    assert_equal(weights, best[1])


def test_all_processes_judge_the_figures_of_the_first(tmp_path: Path) -> None:
    """Their own ones differ in the last digits, or by batch norm."""

    @dataclasses.dataclass(frozen=True)
    class Second(World):
        def agree(self, value: Any) -> Any:
            return {"heldout": {"loss": 2.0}} if isinstance(value, dict) else value

    world = Second(rank=0, size=1, local_size=1, device=torch.device("cpu"))
    result, _ = run(
        tmp_path,
        steps=20,
        world=world,
        evaluate=evaluate_by([5.0, 4.0, 3.0, 2.0]),
        patience=Patience("heldout", "loss", evaluations=2),
    )
    assert result.totals.step == 3


def test_best_weights_are_on_disk_before_a_checkpoint_tells_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before the job is requeued, which kills it."""
    written: list[str] = []
    write = Checkpoints._write

    def slowly(self: Checkpoints, *arguments: Any) -> None:
        time.sleep(0.2 if self.folder.name == "best" else 0)
        write(self, *arguments)
        written.append(self.folder.name)

    monkeypatch.setattr(Checkpoints, "_write", slowly)
    monkeypatch.setattr(slurm, "requeue", lambda: written.append("requeue"))
    result, _ = run(
        tmp_path,
        steps=20,
        trainer={"time_budget_minutes": 1e-9},
        evaluate=evaluate_by([5.0]),
        patience=Patience("heldout", "loss", evaluations=2),
    )
    assert written == ["best", result.folder.name, "requeue"]


def test_a_run_goes_on_from_best_weights_that_are_newer_or_looks_for_them_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def goes_on(losses: list[float], *, steps: int = 4, **trainer: float) -> Result:
        patience = Patience("heldout", "loss", evaluations=3)
        return run(
            tmp_path, steps=steps, trainer=trainer, evaluate=evaluate_by(losses), patience=patience
        )[0]

    for loss in (5.0, 4.0):  # step by step
        folder = goes_on([loss], time_budget_minutes=1e-9).folder
    shutil.rmtree(folder / "step_00000002")  # as where the kill came between the two
    assert goes_on([6.0], time_budget_minutes=1e-9).totals.step == 3
    shutil.rmtree(folder / "best/step_00000002")
    assert goes_on([7.0]).finished
    assert "the best weights, of step 2, are not in" in caplog.text
    assert [path.name for path in (folder / "best").glob("step_*")] == ["step_00000004"]
    (folder / "best/step_00000004/progress.json").unlink()
    with pytest.raises(ValueError, match="the best weights, of step 4, are not whole"):
        goes_on([])


class PoisonedLoader(ShardLoader):
    """One value of cell 1042 is not a number."""

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        for step in super().__iter__():
            for batch in step:
                assert batch.cell_B is not None
                batch.values_BL[batch.cell_B == 1042, 1] = torch.nan
            yield step


def test_a_loss_that_is_not_finite_stops_and_names_the_cell(tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=12, loader=PoisonedLoader)
    with pytest.raises(FloatingPointError, match="cells with values that are not finite: 1042"):
        trainer.run()
    assert not list(trainer.folder.glob("step_*"))


def test_activation_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", steps=3)
    recomputed, _ = run(tmp_path / "other", steps=3, trainer={"activation_checkpointing": True})
    assert losses_of(recomputed) == pytest.approx(losses_of(plain), rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # the compiler warns of itself
def test_compilation_keeps_the_course(tmp_path: Path) -> None:
    """Without dropout, which compiled code draws in another order; no graph break is allowed."""
    plain, compiled = (
        run(
            tmp_path / str(compile_),
            steps=4,
            model=tiny.make_model(dropout=0.0),
            trainer={"compile": compile_},
        )
        for compile_ in (False, True)
    )
    assert losses_of(compiled[0]) == pytest.approx(losses_of(plain[0]), rel=1e-4)
