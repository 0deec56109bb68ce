"""What Slurm says of the time that a job has left."""

import pytest

from scgpt_core.slurm import parse_time_left, seconds_left


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("59", 59),
        ("1:00", 60),
        ("02:03:04", 7384),
        ("1-02:03:04", 93784),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
    ],
)
def test_time_left(said: str, seconds: int | None) -> None:
    assert parse_time_left(said) == seconds


def test_outside_of_a_job_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert seconds_left() is None
