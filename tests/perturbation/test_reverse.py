"""The genes behind a state are found by what they do to others, alone and in pairs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from screen import make_screen

from scgpt_core.config import PerturbationSettings, PerturbationSplitSettings
from scgpt_core.perturbation.data import Perturbations, genes_of, read_perturbations
from scgpt_core.perturbation.predictions import reverse_fold
from scgpt_core.perturbation.reverse import rank_candidates
from scgpt_core.perturbation.scores import score_predictions
from scgpt_core.perturbation.splits import Fold, Split, make_split

WITH_PAIRS = [
    "ctrl", "SMAD4+ctrl", "CUL3+ctrl", "JAK2+ctrl", "IRF1+ctrl", "CUL3+SMAD4", "JAK2+SMAD4"
]  # fmt: skip


def leave_out(data: Perturbations, *test: str) -> Fold:
    train = tuple(name for name in data.conditions if name not in test)
    return Fold(train, (), test, ("0 of 1",) * len(test))


def test_candidates_are_ranked_among_those_of_as_many_genes() -> None:
    shifts = {
        "A+ctrl": np.array([-5.0, 0, 0]),  # right about itself alone
        "B+ctrl": np.array([0.0, 0.9, 0]),
        "A+B": np.array([-5.0, 0, 0.5]),
        "B+C": np.array([0.0, 0.5, 0]),
        "C+D": np.array([9.0, 0.5, 0]),
    }
    table = rank_candidates(np.array([-5.0, 1, 0]), shifts, columns=np.array([1, 2]))
    assert list(zip(table["candidate"], table["genes"], table["rank"], strict=True)) == [
        ("B+ctrl", 1, 1), ("A+ctrl", 1, 2), ("B+C", 2, 1.5), ("C+D", 2, 1.5), ("A+B", 2, 3)
    ]  # fmt: skip
    assert rank_candidates(np.ones(3), {}, columns=np.arange(3)).empty


def test_the_fall_of_the_gene_itself_names_it_not() -> None:
    data = read_perturbations(make_screen())

    def knock_out(genes: Sequence[str], rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
        expressed_MG = data.log_NG[rows_M].toarray()
        expressed_MG[:, [data.column_of[gene] for gene in genes if gene in data.column_of]] = 0
        return expressed_MG

    settings = PerturbationSettings(pair_genes=2)
    ranks = reverse_fold(data, leave_out(data, "STAT1+ctrl"), knock_out, settings)
    assert "STAT1" in data.column_of
    assert set(ranks.loc[ranks["genes"] == 1, "rank"]) == {3.5}


def test_candidates_are_predicted_on_controls_of_what_is_tested() -> None:
    data = read_perturbations(make_screen())
    settings = PerturbationSplitSettings(by="batch", validation_share=0)
    read = set()

    def remember(genes: Sequence[str], rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
        read.update(data.batch_N[rows_M])
        return data.log_NG[rows_M].toarray()

    for fold in make_split(data, settings, dataset_sha256="a" * 64, seed=0).folds:
        read.clear()
        reverse_fold(data, fold, remember, PerturbationSettings(pair_genes=2))
        assert read == {fold.group}


def test_pairs_of_the_data_are_candidates_beside_those_of_the_best() -> None:
    data = read_perturbations(make_screen(WITH_PAIRS))
    truth = dict(zip(data.conditions, shifts_of(data), strict=True))

    def know(genes: Sequence[str], rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of pairs everything, and of genes alone the opposite."""
        names = [name for name in data.conditions if set(genes_of(name)) == set(genes)]
        change = sum((truth[name] for name in names), np.zeros(len(data.genes)))
        signed = change if len(genes) > 1 else -change
        return np.asarray(data.log_NG[rows_M].toarray() + signed, np.float32)

    fold = leave_out(data, "CUL3+SMAD4")
    ranks = reverse_fold(data, fold, know, PerturbationSettings(pair_genes=2))
    pairs = ranks[ranks["genes"] == 2].set_index("candidate")["rank"]
    assert {"CUL3+SMAD4", "JAK2+SMAD4"} < set(pairs.index)
    assert pairs["CUL3+SMAD4"] == 1


def shifts_of(data: Perturbations) -> NDArray[np.float64]:
    every_cell = np.ones(len(data.names), np.bool_)
    return data.shifts(data.conditions, cells_N=every_cell, controls_N=data.is_control)


def test_the_ceiling_ranks_genes_and_pairs_apart() -> None:
    data = read_perturbations(make_screen(WITH_PAIRS))
    pairs = tuple(name for name in data.conditions if len(genes_of(name)) > 1)
    states = (*pairs, "CUL3+ctrl", "JAK2+ctrl", "SMAD4+ctrl")
    split = Split("a" * 64, 0, data.genes, (leave_out(data, *states),))
    scores = score_predictions(data, split, predicted=None, ranks=None, focus={})
    values = pd.Series(scores["value"].to_numpy(), index=scores["metric"])
    assert values["reverse_single_top1"] == values["reverse_pair_top1"] == 1


def test_states_that_no_candidate_names_are_missed_and_not_left_out() -> None:
    data = read_perturbations(make_screen(WITH_PAIRS))
    split = Split("a" * 64, 0, data.genes, (leave_out(data, "CUL3+SMAD4", "CUL3+ctrl"),))
    rows = [
        (0, condition, candidate, n_genes, 1)
        for condition in split.folds[0].test
        for n_genes, candidate in ((1, "JAK2+ctrl"), (2, "JAK2+SMAD4"))
    ]
    ranks = pd.DataFrame(rows, columns=["fold", "condition", "candidate", "genes", "rank"])
    scores = score_predictions(data, split, predicted=None, ranks=ranks, focus={})
    values = pd.Series(scores["value"].to_numpy(), index=scores["metric"])
    assert values["reverse_single_top1"] == values["reverse_pair_top5"] == 0
    singles = ranks[ranks["genes"] == 1]
    scores = score_predictions(data, split, predicted=None, ranks=singles, focus={})
    assert "reverse_pair_top1" not in set(scores["metric"])
