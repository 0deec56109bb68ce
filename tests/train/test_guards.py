"""Guards: what is not finite is named, patience counts, signals are noted."""

import os
import signal

import pytest
import tiny
import torch

from scgpt_core.train.guards import FiniteGuard, Patience, StopSignals

ONE = torch.tensor(1.0)
NAN = torch.tensor(torch.nan)


def test_a_finite_step_passes() -> None:
    guard = FiniteGuard()
    guard.check()
    guard.watch(3, torch.tensor(2.0), [ONE], [tiny.make_batch(2)])
    guard.check()
    assert guard.norm == 2.0


@pytest.mark.parametrize(
    ("norm", "losses", "named"),
    [
        (NAN, [ONE, NAN], "1002, 1003"),
        (torch.tensor(torch.inf), [ONE, ONE], "1000, 1001, 1002, 1003"),
    ],
    ids=["one micro-batch", "gradient alone"],
)
def test_the_cells_of_the_step_are_named(
    norm: torch.Tensor, losses: list[torch.Tensor], named: str
) -> None:
    first, second = (
        type(batch)(*(None if t is None else t[rows] for t in batch))
        for batch in [tiny.make_batch(4)]
        for rows in (slice(0, 2), slice(2, 4))
    )
    guard = FiniteGuard()
    guard.watch(7, norm, losses, [first, second])
    with pytest.raises(FloatingPointError, match=f"step 7.*cells of these micro-batches: {named}"):
        guard.check()


def test_patience_waits_for_a_lower_value() -> None:
    patience = Patience("heldout", "loss", evaluations=2)
    judged = [patience.judge(step, value) for step, value in enumerate([3.0, 2.0, 2.0, 1.0])]
    assert judged == [True, True, False, True]
    assert not patience.is_over
    assert (patience.best, patience.best_step) == (1.0, 3)
    assert [patience.judge(4, 1.5), patience.judge(5, torch.nan)] == [False, False]
    assert patience.is_over


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_noted_within_the_block_only(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.caught == ""
        os.kill(os.getpid(), number)
        assert signals.caught == number.name
    assert signal.getsignal(number) is before
