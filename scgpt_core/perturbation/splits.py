"""Who is learned from and who is predicted: folds of conditions or of groups, kept with the data.

Shapes: N cells.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from scgpt_core.config import PerturbationSplitSettings
from scgpt_core.perturbation.data import LEAST_CELLS, Perturbations, genes_of
from scgpt_core.runs import read_json, write_json

_FORMAT: Final = "scgpt-perturbation-split-2"
_KEYS: Final = {"batch": "batch_key", "cell_type": "label_key"}
"""Columns of datasets.tsv that name the groups."""
logger = logging.getLogger(__name__)


class Fold(NamedTuple):
    """One fit: conditions to learn from, to stop early by, and to predict."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    seen: tuple[str, ...]
    """Of each test condition, how many of its genes are in training, as "1 of 2"."""
    column: str | None = None
    """Where groups of cells are held out: "batch" or "cell_type"."""
    group: str | None = None
    """The group that is held out; the test conditions are predicted for its cells."""

    def cells(self, data: Perturbations, conditions: Sequence[str]) -> NDArray[np.bool_]:
        """Perturbed cells of these conditions outside the held-out group: bool (N,)."""
        chosen_N = np.isin(data.condition_N, list(conditions))
        return np.asarray(chosen_N & ~self._held_out(data))

    def truth(self, data: Perturbations, condition: str) -> NDArray[np.bool_]:
        """Cells that a test condition is predicted for: bool (N,)."""
        return np.asarray(self.truths(data) & (data.condition_N == condition))

    def truths(self, data: Perturbations) -> NDArray[np.bool_]:
        """Perturbed cells of any condition, of the held-out group where there is one: bool (N,)."""
        return ~data.is_control if self.group is None else ~data.is_control & self._held_out(data)

    def _held_out(self, data: Perturbations) -> NDArray[np.bool_]:
        if self.column is None:
            return np.zeros(len(data.condition_N), np.bool_)
        column_N = data.batch_N if self.column == "batch" else data.cell_type_N
        return np.asarray(column_N == self.group)


class Split(NamedTuple):
    """All folds of a data set, and the digest of the file that they are of."""

    dataset_sha256: str
    seed: int
    genes: tuple[str, ...]
    """Measured genes that are learned, predicted and scored, by every method."""
    folds: tuple[Fold, ...]

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        folds = [fold._asdict() for fold in self.folds]
        write_json(path, {"format": _FORMAT, **self._asdict(), "folds": folds})

    @classmethod
    def load(cls, path: str | Path, *, dataset_sha256: str) -> Self:
        """Read the split of this data set.

        Raises
        ------
        ValueError
            Where the file is no split, or that of other data.
        """
        content = read_json(path)
        if content.get("format") != _FORMAT:
            message = f"{path} has the format {content.get('format')!r}, not {_FORMAT!r}"
            raise ValueError(message)
        if content["dataset_sha256"] != dataset_sha256:
            message = (
                f"{path} splits data of SHA-256 {content['dataset_sha256'][:12]}, and these are "
                f"{dataset_sha256[:12]}: make the split anew"
            )
            raise ValueError(message)
        folds = tuple(map(_read_fold, content["folds"]))
        return cls(dataset_sha256, content["seed"], tuple(content["genes"]), folds)


def _read_fold(content: dict[str, Any]) -> Fold:
    named = {name: tuple(content[name]) for name in ("train", "validation", "test", "seen")}
    return Fold(**named, column=content["column"], group=content["group"])


def make_split(
    data: Perturbations, settings: PerturbationSplitSettings, *, dataset_sha256: str, seed: int
) -> Split:
    """Deal perturbed genes, or groups of cells, into folds.

    By gene, each perturbed gene is unseen in one fold: its own perturbation, and its combinations
    with seen and unseen genes, are predicted there. Combinations of two seen genes are dealt as
    well. By batch or cell type, all conditions are predicted for a group whose perturbed cells are
    left out of training; its control cells are given.

    Raises
    ------
    ValueError
        Where there are too few genes, groups or cells: a fold has conditions to learn from and
        conditions to predict.
    """
    for group, names in settings.focus.items():
        if absent := [name for name in names if name not in data.perturbed]:
            logger.warning("split.focus: no condition perturbs %s of %s", ", ".join(absent), group)
    rng = np.random.default_rng(seed)
    if settings.by == "gene":
        folds = _by_gene(data, settings, rng)
    else:
        folds = _by_group(data, settings, rng)
    return Split(dataset_sha256, seed, data.genes, tuple(folds))


def _by_gene(
    data: Perturbations, settings: PerturbationSplitSettings, rng: np.random.Generator
) -> list[Fold]:
    genes = data.perturbed
    if len(genes) < 2 * settings.n_folds:
        message = (
            f"{len(genes)} perturbed genes do not fill {settings.n_folds} folds of two: lower "
            "perturbation.split.n_folds"
        )
        raise ValueError(message)
    focus = {gene for names in settings.focus.values() for gene in names}
    drawn = rng.permutation(genes).tolist()
    dealt = sorted(drawn, key=lambda gene: gene not in focus)  # stable: these go apart first
    fold_of = {gene: i % settings.n_folds for i, gene in enumerate(dealt)}
    pairs = [name for name in data.conditions if len(genes_of(name)) > 1]
    fold_of |= {name: i % settings.n_folds for i, name in enumerate(rng.permutation(pairs))}
    return [_unseen(data, fold_of, number, settings, rng) for number in range(settings.n_folds)]


def _unseen(
    data: Perturbations,
    fold_of: dict[str, int],
    number: int,
    settings: PerturbationSplitSettings,
    rng: np.random.Generator,
) -> Fold:
    """Fold in which the genes that were dealt to it are unseen, and the combinations as such."""
    dealt = {name for name, fold in fold_of.items() if fold == number}
    test = tuple(c for c in data.conditions if not dealt.isdisjoint((c, *genes_of(c))))
    rest = set(data.conditions) - set(test)
    if not rest:
        message = (
            f"fold {number + 1} of {settings.n_folds} leaves nothing to learn from: each of the "
            f"{len(test)} conditions is dealt to it, or has a gene that is ({test[0]}, ...); raise "
            "perturbation.split.n_folds, or add conditions in which one gene alone is perturbed"
        )
        raise ValueError(message)
    train, validation = _set_aside(rest, settings, rng)
    return Fold(train, validation, test, _seen(test, train))


def _by_group(
    data: Perturbations, settings: PerturbationSplitSettings, rng: np.random.Generator
) -> list[Fold]:
    column_N = data.batch_N if settings.by == "batch" else data.cell_type_N
    groups = sorted(set(column_N.tolist()))
    if len(groups) < 2:
        message = f"all cells have the {settings.by} {groups[0]!r}: there is none to hold out"
        raise ValueError(message)
    folds = []
    for group in groups:
        test = data.well_measured(column_N == group)
        if not test:
            logger.warning("%s is not held out: it has too few perturbed cells", group)
            continue
        outside = set(data.condition_N[column_N != group].tolist()) & set(data.conditions)
        if not outside:
            message = (
                f"all {(~data.is_control).sum()} perturbed cells have the {settings.by} {group!r}: "
                "to hold it out leaves nothing to learn from; set perturbation.split.by to gene, "
                f"or choose another {_KEYS[settings.by]} in datasets.tsv"
            )
            raise ValueError(message)
        train, validation = _set_aside(outside, settings, rng)
        folds.append(Fold(train, validation, test, _seen(test, train), settings.by, group))
    if not folds:
        least = LEAST_CELLS // 2
        message = (
            f"none of the {len(groups)} groups by {settings.by} ({', '.join(groups[:5])}"
            f"{', ...' if len(groups) > 5 else ''}) has {2 * least} cells of a condition, {least} "
            "in each half of the truth: set perturbation.split.by to gene, or choose another "
            f"{_KEYS[settings.by]} in datasets.tsv"
        )
        raise ValueError(message)
    return folds


def _seen(test: Sequence[str], train: Sequence[str]) -> tuple[str, ...]:
    """Of each test condition, how many of its genes are perturbed in a training condition."""
    learned = {gene for name in train for gene in genes_of(name)}
    return tuple(f"{sum(g in learned for g in genes_of(c))} of {len(genes_of(c))}" for c in test)


def _set_aside(
    conditions: set[str], settings: PerturbationSplitSettings, rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draw conditions for the early stop; the others are learned from."""
    drawn = rng.permutation(sorted(conditions)).tolist()
    n = min(int(np.ceil(settings.validation_share * len(drawn))), len(drawn) - 1)
    return tuple(sorted(drawn[n:])), tuple(sorted(drawn[:n]))
