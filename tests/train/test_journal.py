"""The journal: what a person reads, and what the learning curve is drawn from."""

import logging
from importlib.util import find_spec
from pathlib import Path

import pytest

from scgpt_core.train.journal import METRICS, Journal, Totals, read_metrics, spell_time


def tell(folder: Path, steps: range, totals: Totals) -> None:
    told = Journal(folder, steps=10, trackers=(), totals=totals)
    for step in steps:
        now = Totals(step=step, cells=20 * step, tokens=200 * step, seconds=0.5 * step)
        told.tell_training(now, {"gep": 2.0, "gepc": 1.0}, learning_rate=0.1)
    told.close()


def test_a_line_has_means_speed_and_time_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tell(tmp_path, range(2, 3), Totals())
    assert read_metrics(tmp_path / METRICS) == [
        {
            "step": 2, "split": "train", "loss": 3.0, "gep": 2.0, "gepc": 1.0,
            "learning_rate": 0.1, "cells_per_s": 40.0, "tokens_per_s": 400.0,
        }
    ]  # fmt: skip
    expected = (
        "step 2/10 | loss 3.000 (gep 2.000, gepc 1.000) | 40 cells/s, 400 tokens/s | 4 s left"
    )
    assert expected in caplog.text


def test_lines_of_lost_steps_are_told_again_once(tmp_path: Path) -> None:
    tell(tmp_path, range(1, 6), Totals())
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 6, "spl')  # a kill in the middle of a line
    tell(tmp_path, range(4, 7), Totals(step=3, cells=60, tokens=600, seconds=1.5))
    lines = read_metrics(tmp_path / METRICS)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[3]["cells_per_s"] == pytest.approx(40.0)


def test_an_evaluation_is_told_by_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Journal(tmp_path, steps=10, trackers=(), totals=Totals())
    with caplog.at_level(logging.INFO):
        told.tell_evaluation(5, {"seen": {"gep": 1.0, "gep@0.5": 3.0}, "heldout": {"gep": 2.0}})
    told.close()
    assert caplog.messages == ["step 5/10 | seen: gep 1.000", "step 5/10 | heldout: gep 2.000"]
    assert read_metrics(tmp_path / METRICS) == [
        {"step": 5, "split": "seen", "gep": 1.0, "gep@0.5": 3.0},
        {"step": 5, "split": "heldout", "gep": 2.0},
    ]


def test_a_silent_journal_writes_nothing(tmp_path: Path) -> None:
    told = Journal(tmp_path, steps=10, trackers=(), totals=Totals(), silent=True)
    told.tell_evaluation(5, {"seen": {"gep": 1.0}})
    told.tell_training(Totals(step=1), {"gep": 1.0})
    told.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_the_same_values(tmp_path: Path) -> None:
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", exc_type=ImportError
    )
    told = Journal(tmp_path, steps=10, trackers=("tensorboard",), totals=Totals())
    told.tell_evaluation(5, {"heldout": {"gep": 2.0}})
    told.close()
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (point,) = events.Scalars("heldout/gep")
    assert (point.step, point.value) == (5, 2.0)


@pytest.mark.filterwarnings("default")  # the package's own
def test_wandb_keeps_a_run_of_the_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network it is kept on disk; `wandb sync` sends it."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "0123456789ab"
    folder.mkdir()
    told = Journal(folder, steps=10, trackers=("wandb",), totals=Totals())
    told.tell_evaluation(5, {"heldout": {"gep": 2.0}})
    told.close()
    (kept,) = folder.glob("wandb/offline-run-*/run-0123456789ab.wandb")
    assert b"heldout/gep" in kept.read_bytes()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed here")
def test_a_tracker_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'wandb', but the package wandb is not installed"):
        Journal(tmp_path, steps=1, trackers=("wandb",), totals=Totals())


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_times_are_spelled_as_people_say_them(seconds: float, spelled: str) -> None:
    assert spell_time(seconds) == spelled
