"""Labels go from a reference to a query: vote, confidence, novelty, back-off along the ontology.

Shapes: N reference cells, S sampled ones, Q queries, K neighbours, G groups (data sets), C labels,
T labels and the terms above them, D width.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.config import MappingSettings
from scgpt_core.index.neighbours import Neighbours, bitmap, drop_self
from scgpt_core.index.ontology import Ontology
from scgpt_core.index.reference import Reference
from scgpt_core.index.vote import (
    Calibration,
    calibration_error,
    fit_calibration,
    neighbour_weights,
    vote,
)
from scgpt_core.keys import CELL_TYPE, DISEASE, DONOR_ID, SOMA_JOINID, TISSUE_GENERAL

logger = logging.getLogger(__name__)

_MIN_CALIBRATION: Final = 50
"""Sampled cells under which confidence is not measured across data sets."""
_REPORT_COLUMNS: Final = (CELL_TYPE, TISSUE_GENERAL, DISEASE, DONOR_ID)


class LabelTransfer:
    """Transfers one obs column of a reference; confidence and novelty are measured on itself.

    Cells of a query are of none of the reference's data sets. So sampled reference cells are mapped
    onto the cells of other data sets (or of whatever `settings.calibrate_across` names): how often
    a share of the votes is right there is its confidence, and how far neighbours lie there is
    what novelty is measured by. Cells whose label no other data set has, or without whose data set
    less than half of the reference is left, tell nothing of a query, and do not count.

    Parameters
    ----------
    reference
        As `open_index` gives it.
    settings
        Which column, how many neighbours, and thresholds.
    ontology
        Where labels name its terms: a label counts as right where it is a kind of the true one,
        and a query whose label is not sure gets the most specific term above it that is.

    Raises
    ------
    ValueError
        Where the reference lacks a column, or has no labelled cell.
    """

    def __init__(
        self, reference: Reference, settings: MappingSettings, ontology: Ontology | None = None
    ) -> None:
        self.reference, self.settings = reference, settings
        self.labels = reference.labels.categories(settings.label_column)
        codes_N = reference.labels.codes(settings.label_column)
        n_cells_C = np.bincount(codes_N[codes_N >= 0], minlength=len(self.labels))
        if n_cells_C.sum() < 2:
            message = (
                f"{n_cells_C.sum()} reference cells have a label in {settings.label_column!r}: "
                "name another obs column as index.mapping.label_column, or label the reference"
            )
            raise ValueError(message)
        frequency_C = np.maximum(n_cells_C, 1) / n_cells_C.sum()
        self._class_weight_C = frequency_C**-settings.frequency_correction
        self.terms, self._kind_CT = (ontology or Ontology({}, {})).kinds(self.labels)
        self._n_cells_T = n_cells_C @ self._kind_CT
        self._labelled = bitmap(codes_N >= 0)

        found, codes_S, across = self._map_sample(codes_N)
        share_SC = self._shares(found)
        voted_S, winner_S = share_SC.max(axis=1) > 0, share_SC.argmax(axis=1)
        self.calibration: Calibration = fit_calibration(
            share_SC @ self._kind_CT,
            winner_S,
            self._kind_CT[winner_S] & voted_S[:, None],
            self._kind_CT[codes_S],
            k=settings.neighbours,
        )
        confidence_S = _at(self._confidence(share_SC), winner_S)
        right_S = self._kind_CT[winner_S, codes_S] & voted_S
        self._distances_S = np.sort(_mean_distance(found))
        self.report: dict[str, Any] = {
            "calibrated_across": across,
            "calibration_cells": len(codes_S),
            "calibration_accuracy": float(right_S.mean()),
            "calibration_error": calibration_error(confidence_S, right_S),
        }
        logger.info("%s", self.report)

    def _map_sample(
        self, codes_N: NDArray[np.int64]
    ) -> tuple[Neighbours, NDArray[np.int64], str | None]:
        """Neighbours and labels of the sampled cells that count, and the column mapped across."""
        reference, across = self.reference, self.settings.calibrate_across
        k, model = self.settings.neighbours, reference.manifest["model"]
        rows_S, emb_SD = reference.sample
        if across is not None:
            group_N = reference.labels.codes(across)
            counts_S = self._tells_of_queries(codes_N, group_N)[rows_S]
            if counts_S.sum() >= _MIN_CALIBRATION:
                rows_S, emb_SD = rows_S[counts_S], emb_SD[counts_S]
                found = Neighbours(
                    np.full((len(rows_S), k), -1), np.full((len(rows_S), k), -np.inf, np.float32)
                )
                for group in np.unique(group_N[rows_S]):
                    own_S = group_N[rows_S] == group
                    others = bitmap((codes_N >= 0) & (group_N != group))
                    near = reference.search(emb_SD[own_S], k, model=model, among=others)
                    found.rows_QK[own_S], found.similarity_QK[own_S] = near
                return found, codes_N[rows_S], across
            logger.warning(
                "only %d sampled cells have their label in another %s too: confidence is measured "
                "on all neighbours, and will be too high for cells of another origin",
                counts_S.sum(), across,
            )  # fmt: skip
        known_S = codes_N[rows_S] >= 0
        if not known_S.any():
            message = (
                f"no sampled reference cell has a label in {self.settings.label_column!r}: raise "
                "index.sample_cells, or label more of the reference"
            )
            raise ValueError(message)
        rows_S = rows_S[known_S]
        k_all = min(k + 1, reference.manifest["n_cells"])
        near = reference.search(emb_SD[known_S], k_all, model=model, among=self._labelled)
        return drop_self(near, rows_S), codes_N[rows_S], None

    def _tells_of_queries(
        self, codes_N: NDArray[np.int64], group_N: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether other groups have a cell's label, and enough is left without its own."""
        known_N = (codes_N >= 0) & (group_N >= 0)
        n_classes, n_groups = len(self.labels), int(group_N.max(initial=0)) + 1
        pair_N = group_N[known_N] * n_classes + codes_N[known_N]
        n_GC = np.bincount(pair_N, minlength=n_groups * n_classes).reshape(n_groups, n_classes)
        has_kind_GC = n_GC @ self._kind_CT[:, :n_classes] > 0
        shared_C = has_kind_GC.sum(axis=0) > 1
        minor_G = n_GC.sum(axis=1) <= n_GC.sum() / 2
        return np.asarray(known_N & shared_C[codes_N] & minor_G[group_N])

    def _shares(self, neighbours: Neighbours) -> NDArray[np.float64]:
        codes_QK = self.reference.labels.codes(self.settings.label_column, neighbours.rows_QK)
        return vote(neighbour_weights(neighbours.similarity_QK), codes_QK, self._class_weight_C)

    def _confidence(self, share_QC: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability that a label or a term above it is right, (Q, T)."""
        return self.calibration(share_QC @ self._kind_CT)

    def map(self, cells: Sequence[str], query_QD: NDArray[np.float32], *, model: str) -> pa.Table:
        """Predictions for queries, a row each.

        Parameters
        ----------
        cells
            Q names.
        query_QD
            (Q, D) unit rows.
        model
            Digest of the model that embedded them.

        Returns
        -------
        ``cell``; ``predicted``, the label with most votes of the K nearest cells that have one;
        ``confidence``, the probability that it is right; ``novelty``, the share of the reference's
        own cells that lie nearer to their neighbours (0 to 1); ``unknown``, whether one of the two
        is beyond its threshold; ``broad`` and ``broad_confidence``, the most specific label or term
        above it that is sure enough (null where none is); ``neighbour_soma_joinid``,
        ``neighbour_similarity`` (cosine) and ``neighbour_COLUMN``, lists of the K neighbours,
        nearest first.

        Raises
        ------
        ValueError
            As `Reference.search`.
        """
        settings = self.settings
        found = self.reference.search(
            query_QD, settings.neighbours, model=model, among=self._labelled
        )
        share_QC = self._shares(found)
        winner_Q = share_QC.argmax(axis=1)
        confidence_QT = self._confidence(share_QC)
        confidence_Q = _at(confidence_QT, winner_Q)
        novelty_Q = self._novelty(found)
        unsure_Q = confidence_Q < settings.unknown_below
        broad_Q = self._back_off(confidence_QT, winner_Q)
        return pa.table(
            {
                "cell": pa.array([str(cell) for cell in cells]),
                "predicted": self._name(np.where(share_QC.any(axis=1), winner_Q, -1)),
                "confidence": confidence_Q,
                "novelty": novelty_Q,
                "unknown": unsure_Q | (novelty_Q > settings.novelty_quantile),
                "broad": self._name(broad_Q),
                "broad_confidence": np.where(broad_Q < 0, 0, _at(confidence_QT, broad_Q)),
                **self._describe(found),
            }
        )

    def _novelty(self, found: Neighbours) -> NDArray[np.float64]:
        nearer_Q = np.searchsorted(self._distances_S, _mean_distance(found))
        return np.asarray(nearer_Q / len(self._distances_S))

    def _back_off(
        self, confidence_QT: NDArray[np.float64], winner_Q: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Most specific term that is sure enough, of those that the winner is a kind of; -1: none.

        Specific is a term of which the reference has few cells; of equals, the lower one.
        """
        sure_QT = (confidence_QT >= self.settings.unknown_below) & self._kind_CT[winner_Q]
        term_Q = np.where(sure_QT, self._n_cells_T, np.inf).argmin(axis=1)
        return np.where(sure_QT.any(axis=1), term_Q, -1)

    def _name(self, term_Q: NDArray[np.int64]) -> pa.Array:
        """Names of labels and terms, null for -1."""
        return pa.array(self.terms, pa.string()).take(pa.array(term_Q, mask=term_Q < 0))

    def _describe(self, found: Neighbours) -> dict[str, pa.Array]:
        k = found.rows_QK.shape[1]
        wanted = self.settings.report_columns
        if wanted is None:
            wanted = tuple(n for n in _REPORT_COLUMNS if n in self.reference.labels.columns)
        columns = [SOMA_JOINID, *wanted]
        values = self.reference.labels.values(columns, found.rows_QK.ravel())
        lists = {
            f"neighbour_{name}": pa.FixedSizeListArray.from_arrays(values[name].combine_chunks(), k)
            for name in columns
        }
        cosines = pa.array(found.similarity_QK.ravel(), mask=found.rows_QK.ravel() < 0)
        lists["neighbour_similarity"] = pa.FixedSizeListArray.from_arrays(cosines, k)
        return lists


def _at(values_QT: NDArray[np.float64], term_Q: NDArray[np.int64]) -> NDArray[np.float64]:
    return values_QT[np.arange(len(term_Q)), term_Q]


def _mean_distance(neighbours: Neighbours) -> NDArray[np.float64]:
    """Mean of 1 - cosine over the neighbours that were found; infinite where none was."""
    found_QK = neighbours.rows_QK >= 0
    distance_QK = np.where(found_QK, 1 - neighbours.similarity_QK, 0.0)
    n_Q = found_QK.sum(axis=1)
    return np.where(n_Q > 0, distance_QK.sum(axis=1) / np.maximum(n_Q, 1), np.inf)


def map_query(
    reference: Reference,
    query_QD: NDArray[np.float32],
    *,
    model: str,
    settings: MappingSettings,
    cells: Sequence[str] | None = None,
    ontology: Ontology | None = None,
) -> pa.Table:
    """Map embedded cells onto a reference: the table of `LabelTransfer.map`.

    Parameters
    ----------
    reference
        As `open_index` gives it.
    query_QD
        (Q, D) unit rows of `embed_cells`.
    model
        Digest of the model that embedded them.
    settings
        Which column, how many neighbours, and thresholds.
    cells
        Names; their numbers where left out.
    ontology
        As for `LabelTransfer`.
    """
    transfer = LabelTransfer(reference, settings, ontology)
    names = [str(i) for i in range(len(query_QD))] if cells is None else cells
    return transfer.map(names, query_QD, model=model)
