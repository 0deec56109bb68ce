"""The simple methods that perturbation prediction is measured against, by name in methods.tsv.

Each learns a mean change of expression and adds it to control cells. To add one: a row of
methods.tsv and an entry of `BASELINES`.

Shapes: C training conditions, G measured genes, F features, K principal components.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV

from scgpt_core.config import PerturbationSettings
from scgpt_core.networks.gene_sets import read_gene_sets
from scgpt_core.perturbation.data import Perturbations, genes_of
from scgpt_core.perturbation.features import LEAST_GENES, MOST_GENES, pathway_features
from scgpt_core.perturbation.predictions import (
    Predictor,
    predict_folds,
    read_dataset,
    write_predictions,
)
from scgpt_core.perturbation.splits import Fold
from scgpt_core.runs import run_record

N_COMPONENTS: Final = 10
"""Principal components of `linear`, and its penalty, as in Ahlmann-Eltze et al. 2025."""
PENALTY: Final = 0.1
PENALTIES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Of `pathway_ridge`, chosen by leaving training conditions out."""
N_TREES: Final = 200

FloatArray = NDArray[np.float64]
Shift = Callable[[Sequence[str]], FloatArray]
"""Perturbed genes to the mean change (G,)."""
Features = Mapping[str, FloatArray]
"""Gene to its features (F,)."""


class Training:
    """What the simple methods learn from: changes of the training conditions of a fold."""

    def __init__(self, data: Perturbations, fold: Fold) -> None:
        # Nothing stops early here: conditions for validation are learned from as well.
        self.conditions = (*fold.train, *fold.validation)
        self.data = data
        self.cells_N = fold.cells(data, self.conditions)
        self.shift_CG = data.shifts(self.conditions, cells_N=self.cells_N, controls_N=data.is_input)
        self.mean_G = self.shift_CG.mean(axis=0)


def run_baseline(
    dataset: str | Path,
    split: str | Path,
    *,
    method: str,
    cells: str | Path,
    ranks: str | Path,
    run_json: str | Path,
    settings: PerturbationSettings,
    gene_sets: str | Path,
    seed: int,
) -> None:
    """Predict the test conditions of every fold by one of the simple methods.

    Parameters
    ----------
    dataset, split
        h5ad of `prepare_dataset`, and its split.
    cells, ranks, run_json
        Predicted cells, candidates of reverse, and the record of the run, to write.
    gene_sets
        A .gmt file.
    seed
        Of the method.

    Raises
    ------
    ValueError
        Where there is no such method, the data are not as they should be, or no gene set has two of
        the perturbed genes and the method is of gene sets.
    """
    if method not in BASELINES:
        message = f"there is no baseline {method!r}; there are: {', '.join(BASELINES)}"
        raise ValueError(message)
    data, folds = read_dataset(dataset, split)
    genes = data.perturbed
    described = {"method": method, "seed": seed, "gene_sets": Path(gene_sets).name}
    with run_record(run_json, described) as run:
        vectors = pathway_features(genes, read_gene_sets(gene_sets))
        features = dict(zip(genes, vectors, strict=True))

        def fit(data: Perturbations, fold: Fold) -> Predictor:
            return _predictor(data, BASELINES[method](Training(data, fold), features, seed))

        run["dataset"] = folds.dataset_sha256
        write_predictions(*predict_folds(data, folds, settings, fit), cells=cells, ranks=ranks)


def _predictor(data: Perturbations, shift: Shift) -> Predictor:
    shift_of = functools.cache(shift)  # reverse asks for many candidates again and again

    def predict(genes: Sequence[str], rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(data.log_NG[rows_M].toarray() + shift_of(tuple(genes)), np.float32)

    return predict


def no_change(training: Training, features: Features, seed: int) -> Shift:
    """Predict the control cells themselves."""
    return lambda genes: np.zeros_like(training.mean_G)


def train_mean(training: Training, features: Features, seed: int) -> Shift:
    """Mean change of the training conditions, each counting alike, whatever is perturbed."""
    return lambda genes: training.mean_G


def cell_mean(training: Training, features: Features, seed: int) -> Shift:
    """Mean of all training cells, perturbed and control, less that of the control cells."""
    data = training.data
    everything = data.log_NG[training.cells_N | data.is_input].mean(axis=0).A1
    shift_G = everything - data.log_NG[data.is_input].mean(axis=0).A1
    return lambda genes: shift_G


def additive(training: Training, features: Features, seed: int) -> Shift:
    """Sum of the changes of the genes alone; a gene that was not seen alone counts as the mean."""
    alone = {
        genes_of(name)[0]: shift_G
        for name, shift_G in zip(training.conditions, training.shift_CG, strict=True)
        if len(genes_of(name)) == 1
    }
    return lambda genes: np.sum([alone.get(g, training.mean_G) for g in genes], axis=0)


def linear(training: Training, features: Features, seed: int) -> Shift:
    """Y = G W P' + b by ridge: G and P are principal components of genes in the training changes.

    As in Ahlmann-Eltze et al. 2025: a perturbation is the vector of its gene, so that a gene that
    was not measured is predicted as the mean b.
    """
    centred_CG = training.shift_CG - training.mean_G
    n_components = min(N_COMPONENTS, min(centred_CG.shape) - 1)
    gene_GK = PCA(n_components, random_state=seed).fit(centred_CG).components_.T
    columns = training.data.column_of

    def vector(genes: Sequence[str]) -> FloatArray:
        measured = [gene_GK[columns[gene]] for gene in genes if gene in columns]
        return np.asarray(np.sum(measured, axis=0) if measured else np.zeros(n_components))

    perturbation_CK = np.array([vector(genes_of(name)) for name in training.conditions])
    ridge_KK = PENALTY * np.eye(n_components)
    left_KG = np.linalg.solve(gene_GK.T @ gene_GK + ridge_KK, gene_GK.T)
    right_CK = np.linalg.solve(perturbation_CK.T @ perturbation_CK + ridge_KK, perturbation_CK.T).T
    weight_KK = left_KG @ centred_CG.T @ right_CK
    return lambda genes: training.mean_G + gene_GK @ (weight_KK @ vector(genes))


def pathway_ridge(training: Training, features: Features, seed: int) -> Shift:
    """Ridge regression on the gene sets of the perturbed genes."""
    model = RidgeCV(PENALTIES)
    model.fit(_rows(training.conditions, features), training.shift_CG)
    return lambda genes: np.asarray(model.predict(_sum(genes, features)[None])[0])


def pathway_forest(training: Training, features: Features, seed: int) -> Shift:
    """Random forest on the gene sets of the perturbed genes."""
    model = RandomForestRegressor(N_TREES, random_state=seed)
    model.fit(_rows(training.conditions, features), training.shift_CG)
    return lambda genes: np.asarray(model.predict(_sum(genes, features)[None])[0])


def _rows(conditions: Sequence[str], features: Features) -> FloatArray:
    rows_CF = np.array([_sum(genes_of(name), features) for name in conditions])
    if not rows_CF.shape[1]:
        named = ", ".join([*sorted(features)[:5], *(["..."] if len(features) > 5 else [])])
        message = (
            f"no set of {LEAST_GENES} to {MOST_GENES} genes in perturbation.gene_sets has two of "
            f"the {len(features)} perturbed genes ({named}): name other gene sets, or leave "
            "pathway_ridge and pathway_forest out of benchmark.methods"
        )
        raise ValueError(message)
    return rows_CF


def _sum(genes: Sequence[str], features: Features) -> FloatArray:
    return np.asarray(np.sum([features[gene] for gene in genes], axis=0))


BASELINES: Final[Mapping[str, Callable[[Training, Features, int], Shift]]] = {
    "no_change": no_change,
    "train_mean": train_mean,
    "cell_mean": cell_mean,
    "additive": additive,
    "linear": linear,
    "pathway_ridge": pathway_ridge,
    "pathway_forest": pathway_forest,
}
