"""Checkpoints: whole or not there, damage is said and passed over, the newest are kept."""

import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch

from scgpt_core.config import TrainerSettings
from scgpt_core.train.optimizer import build_optimizer
from scgpt_core.train.state import Checkpoints


class Saved:
    """A model, its optimiser after a step, and their checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny.make_model()
        self.optimizer = build_optimizer(self.model, TrainerSettings())
        self.checkpoints = Checkpoints(folder, keep=2, world=tiny.ALONE)

    def save(self, step: int) -> None:
        sum(p.sum() for p in self.model.parameters()).backward()
        self.optimizer.step()
        self.checkpoints.save(self.model, self.optimizer, {"step": step, "note": f"after {step}"})
        with torch.no_grad():  # training goes on while the checkpoint is being written
            for parameter in self.model.parameters():
                parameter.add_(100.0)
            self.checkpoints.wait()
            for parameter in self.model.parameters():
                parameter.sub_(100.0)

    def restore(self) -> int | None:
        progress = self.checkpoints.restore(self.model, self.optimizer)
        return None if progress is None else progress["step"]


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Saved]:
    saved = Saved(tmp_path)
    yield saved
    saved.checkpoints.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_empty_folder_restores_nothing(saved: Saved) -> None:
    assert saved.restore() is None


def test_what_is_restored_is_what_was_saved(tmp_path: Path, saved: Saved) -> None:
    saved.save(10)
    expected = {name: p.round(decimals=4) for name, p in saved.model.state_dict().items()}
    moments = saved.optimizer.state_dict()["state"]
    other = Saved(tmp_path)
    assert other.restore() == 10
    for name, tensor in other.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-4)
    for index, state in other.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(value, moments[index][key])
    other.checkpoints.close()


def test_the_newest_are_kept(tmp_path: Path, saved: Saved) -> None:
    for step in (1, 2, 3):
        saved.save(step)
    assert names(tmp_path) == ["step_00000002", "step_00000003"]
    assert saved.restore() == 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "is not what was written"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.parent / "progress.json").write_text("{"), "progress.json"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_said(
    tmp_path: Path, saved: Saved, caplog: pytest.LogCaptureFixture, damage, said: str
) -> None:
    saved.save(1)
    saved.save(2)
    damage(tmp_path / "step_00000002/__0_0.distcp")
    assert saved.restore() == 1
    assert "step_00000002 is damaged" in caplog.text
    assert said in caplog.text
    saved.save(2)  # the same step again takes the damaged one's place
    assert saved.restore() == 2


def test_a_damaged_checkpoint_does_not_outlive_the_earlier_ones_that_are_written_after_it(
    tmp_path: Path, saved: Saved
) -> None:
    for step in (80, 100):
        saved.save(step)
    (tmp_path / "step_00000100/__0_0.distcp").write_bytes(b"")
    assert saved.restore() == 80
    for step in (82, 84):
        saved.save(step)
    assert names(tmp_path) == ["step_00000082", "step_00000084"]
    assert saved.restore() == 84


def test_a_full_disk_keeps_what_there_was_and_is_said(
    tmp_path: Path, saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    """No file may grow beyond 1 kB: writes fail as on a full disk."""
    saved.save(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with caplog.at_level(logging.ERROR):
            saved.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "could not be written" in caplog.text
    assert "the last whole one is of step 1" in caplog.text
    assert names(tmp_path) == ["step_00000001"]
    assert saved.restore() == 1
    saved.save(2)
    assert saved.restore() == 2


def test_what_a_killed_run_left_half_is_cleared_away(tmp_path: Path) -> None:
    half = tmp_path / ".step_00000007"
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(b"half")
    saved = Saved(tmp_path)
    assert saved.restore() is None
    assert names(tmp_path) == []
    saved.checkpoints.close()
