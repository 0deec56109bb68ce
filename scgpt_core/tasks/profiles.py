"""Profiles of cells: simple guesses at them, and how near a guess comes to the truth.

A profile has the bin of every gene, and 0 where the cell has no count of it.

Shapes: N cells, R reference cells, T tokens of the vocabulary.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from scgpt_core.neighbours import find_neighbours

NEIGHBOURS: Final = 10
"""Neighbours that are looked at for mixing."""
_COMPONENTS: Final = 20

Bins = NDArray[np.float32]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]


def type_means(reference_RT: Bins, type_R: Codes, type_N: Codes) -> Bins:
    """Mean bin of a gene over the reference cells of the type that have it: (N, T).

    Where none has it, over those of all types; where none of these has, over all genes.
    """
    overall_T = _mean_where_there(reference_RT)
    overall_T[np.isnan(overall_T)] = reference_RT[reference_RT > 0].mean()
    means_NT = np.empty((len(type_N), reference_RT.shape[1]), np.float32)
    for code in np.unique(type_N):
        mean_T = _mean_where_there(reference_RT[type_R == code])
        means_NT[type_N == code] = np.where(np.isnan(mean_T), overall_T, mean_T)
    return means_NT


def _mean_where_there(bins_NT: Bins) -> Bins:
    """Mean over the cells that have the gene, NaN where none has: (T,)."""
    n_T = (bins_NT > 0).sum(0)
    mean_T: Bins = np.where(n_T > 0, bins_NT.sum(0) / np.maximum(n_T, 1), np.nan)
    return mean_T


def draw_others(type_N: Codes, seed: int) -> Codes:
    """Row of another cell of its type for each cell, drawn at random, each row once: (N,)."""
    rng = np.random.default_rng(seed)
    others_N = np.empty(len(type_N), np.int64)
    for code in np.unique(type_N):
        rows = rng.permutation(np.flatnonzero(type_N == code))
        others_N[rows] = np.roll(rows, 1)
    return others_N


def cell_correlations(guess_NT: Bins, true_NT: Bins, scored_NT: Mask) -> NDArray[np.float64]:
    """Pearson's r of each cell's guessed and true bins, where they are scored: (N,).

    0 where the guess is the same for all of a cell's genes; NaN where the truth is.
    """
    found = np.full(len(true_NT), np.nan)
    for row, scored_T in enumerate(scored_NT):
        guess, true = (x_NT[row, scored_T].astype(np.float64) for x_NT in (guess_NT, true_NT))
        if len(true) > 1 and true.std() > 0:
            found[row] = np.corrcoef(guess, true)[0, 1] if guess.std() > 0 else 0.0
    return found


def gene_errors(guess_NT: Bins, true_NT: Bins, scored_NT: Mask) -> NDArray[np.float64]:
    """Root mean squared error of each gene, in bins, over the cells where it is scored: (T,).

    NaN where it is in none.
    """
    square_T = np.square(guess_NT - true_NT, where=scored_NT, out=np.zeros_like(true_NT)).sum(0)
    n_T = scored_NT.sum(0)
    return np.sqrt(np.where(n_T > 0, square_T / np.maximum(n_T, 1), np.nan))


def mixing(made_NT: Bins, reference_RT: Bins, type_N: Codes, type_R: Codes) -> NDArray[np.float64]:
    """How much each made cell stands among real ones of its type: (N,); 1: not to be told apart.

    Of its nearest neighbours in the principal components of both kinds, the share that is real,
    over the share of real cells among all others. NaN for types of fewer reference cells than
    `NEIGHBOURS`.
    """
    found = np.full(len(made_NT), np.nan)
    for code in np.unique(type_N):
        real, made = reference_RT[type_R == code], made_NT[type_N == code]
        n_real, n_all = len(real), len(real) + len(made)
        if n_real < NEIGHBOURS:
            continue
        both = np.concatenate([real, made])
        both = both[:, both.any(0)]
        n_components = min(_COMPONENTS, n_all - 1, both.shape[1])
        pca = PCA(n_components, svd_solver="randomized", random_state=0)
        place = pca.fit_transform(both)
        _, nearest = find_neighbours(place, NEIGHBOURS + 1)
        is_real = nearest[n_real:, 1:] < n_real
        found[type_N == code] = is_real.mean(1) / (n_real / (n_all - 1))
    return found
