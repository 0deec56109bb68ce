"""Words that the findings share."""

from typing import Final

TIE: Final = 0.005
"""Smaller differences of a score, or shares of an error, count as a tie."""


def compare(error: float, baseline: float, title: str) -> str:
    """Say how far an error is below or above that of a baseline."""
    share = (baseline - error) / baseline
    if abs(share) < TIE:
        verdict = "equal to"
    else:
        verdict = f"**{abs(share):.1%} {'below' if share > 0 else 'above'}**"
    return f"{verdict} that of {title} ({error:.3f} against {baseline:.3f})"


def plural(number: int, what: str) -> str:
    """Count things in words: 1 cell, 2 cells."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
