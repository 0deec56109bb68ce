"""What the report says in words: tables and sentences made from the numbers, whoever wins.

Nothing here knows the outcome of a benchmark: a method is called better only where its mean is,
and the simple baselines stand in every comparison.
"""

from scgpt_core.findings.corpora import (
    PREDICTORS,
    cells_left,
    judged_split,
    say_corpus,
    say_overlap,
    say_stand_in,
    say_training,
)
from scgpt_core.findings.methods import (
    compare_expected,
    rank_methods,
    say_methods,
    say_winner,
    score_matrix,
)
from scgpt_core.findings.tasks import (
    GENERATION,
    LABELLERS,
    MODEL_NETWORKS,
    NETWORKS,
    PROGRAMS,
    SIMPLE_CELLS,
    say_generation,
    say_mapping,
    say_networks,
    say_programs,
)
from scgpt_core.findings.words import TIE

__all__ = [
    "GENERATION",
    "LABELLERS",
    "MODEL_NETWORKS",
    "NETWORKS",
    "PREDICTORS",
    "PROGRAMS",
    "SIMPLE_CELLS",
    "TIE",
    "cells_left",
    "compare_expected",
    "judged_split",
    "rank_methods",
    "say_corpus",
    "say_generation",
    "say_mapping",
    "say_methods",
    "say_networks",
    "say_overlap",
    "say_programs",
    "say_stand_in",
    "say_training",
    "say_winner",
    "score_matrix",
]
