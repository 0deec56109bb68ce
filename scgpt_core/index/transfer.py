"""Labels go from a reference to a query: vote, confidence, novelty, back-off along the ontology.

Shapes: N reference cells, S sampled ones of them, Q queries, K neighbours, G groups (data sets),
C labels, T labels and the terms above them, D width.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.config import MappingSettings
from scgpt_core.index.neighbours import Neighbours, keep_first
from scgpt_core.index.ontology import Ontology
from scgpt_core.index.reference import Reference
from scgpt_core.index.vote import (
    Calibration,
    calibration_error,
    fit_calibration,
    neighbour_weights,
    vote,
)
from scgpt_core.keys import SOMA_JOINID

log = logging.getLogger(__name__)

_MIN_CALIBRATION: Final = 50
"""Sampled cells under which confidence is not measured across data sets."""


class LabelTransfer:
    """Transfers one obs column of a reference, with confidence and novelty measured on itself.

    The reference's sampled cells are mapped onto it, each by neighbours of other data sets (or of
    whatever `settings.calibrate_across` names) where enough of them have the label elsewhere too,
    otherwise by all neighbours. How often a share of the votes is right there is the confidence;
    how far their neighbours lie is what novelty is measured by.

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
        labels = reference.labels
        self.labels = labels.categories(settings.label_column)
        codes_N = labels.codes(settings.label_column)
        n_cells_C = np.bincount(codes_N[codes_N >= 0], minlength=len(self.labels))
        if not n_cells_C.sum():
            message = f"no reference cell has a label in {settings.label_column!r}"
            raise ValueError(message)
        share_C = np.maximum(n_cells_C, 1) / n_cells_C.sum()
        self._class_weight_C = share_C**-settings.frequency_correction
        self.terms, self._kind_CT = (ontology or Ontology({}, {})).kinds(self.labels)
        self._n_cells_T = n_cells_C @ self._kind_CT

        sampled, codes_S, self.calibrated_across = self._calibration_cells()
        share_SC = self._shares(sampled)
        winner_S, best_S = share_SC.argmax(axis=1), share_SC.max(axis=1)
        right_S = self._kind_CT[winner_S, codes_S] & (best_S > 0)
        self.calibration: Calibration = fit_calibration(best_S, right_S, settings.neighbours)
        self._distances_S = np.sort(_mean_distance(sampled))
        confidence_S = self.calibration(best_S)
        self.report: dict[str, Any] = {
            "calibration_cells": len(codes_S),
            "calibrated_across": self.calibrated_across,
            "reference_accuracy": float(right_S.mean()),
            "reference_calibration_error": calibration_error(confidence_S, right_S),
        }
        log.info("%s", self.report)

    def _calibration_cells(self) -> tuple[Neighbours, NDArray[np.int64], str | None]:
        """Neighbours of the sampled cells, their labels, and the column that lies between them."""
        reference, settings = self.reference, self.settings
        codes_S = reference.labels.codes(settings.label_column, reference.sample_S)
        sampled, k = reference.sampled, settings.neighbours
        if settings.calibrate_across is not None:
            group_S = reference.labels.codes(settings.calibrate_across, reference.sample_S)
            group_SK = reference.labels.codes(settings.calibrate_across, sampled.rows_QK)
            other_SK = (group_SK != group_S[:, None]) & (sampled.rows_QK >= 0)
            shared_S = self._shared_labels()[codes_S]
            usable_S = (codes_S >= 0) & shared_S & (other_SK.sum(axis=1) >= k)
            if usable_S.sum() >= _MIN_CALIBRATION:
                chosen = keep_first(sampled, other_SK, k)
                part = Neighbours(chosen.rows_QK[usable_S], chosen.similarity_QK[usable_S])
                return part, codes_S[usable_S], settings.calibrate_across
            log.warning(
                "only %d sampled cells have their label and %d neighbours in another %s: confidence "
                "is measured on all neighbours, and is too high for cells of another origin",
                usable_S.sum(), k, settings.calibrate_across,
            )  # fmt: skip
        usable_S = codes_S >= 0
        if not usable_S.any():
            message = f"none of the sampled reference cells has a {settings.label_column}"
            raise ValueError(message)
        part = Neighbours(sampled.rows_QK[usable_S, :k], sampled.similarity_QK[usable_S, :k])
        return part, codes_S[usable_S], None

    def _shared_labels(self) -> NDArray[np.bool_]:
        """Whether each label, or a kind of it, is found in more than one group, (C,)."""
        labels, settings = self.reference.labels, self.settings
        assert settings.calibrate_across is not None
        codes_N = labels.codes(settings.label_column)
        group_N = labels.codes(settings.calibrate_across)
        known_N = (codes_N >= 0) & (group_N >= 0)
        has_GC = np.zeros((group_N.max(initial=0) + 1, len(self.labels)), np.int64)
        has_GC[group_N[known_N], codes_N[known_N]] = 1
        has_kind_GC = has_GC @ self._kind_CT[:, : len(self.labels)] > 0
        return np.asarray(has_kind_GC.sum(axis=0) > 1)

    def _shares(self, neighbours: Neighbours) -> NDArray[np.float64]:
        codes_QK = self.reference.labels.codes(self.settings.label_column, neighbours.rows_QK)
        return vote(neighbour_weights(neighbours.similarity_QK), codes_QK, self._class_weight_C)

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
        ``cell``; ``predicted``, the label with most votes (null where no neighbour has a label);
        ``confidence``, the probability that it is right; ``novelty``, the share of reference cells
        that lie nearer to their own neighbours (0 to 1); ``unknown``, whether one of the two is
        beyond its threshold; ``broad`` and ``broad_confidence``, the most specific label or term
        above it that is sure enough (null where none is); ``neighbour_soma_joinid``,
        ``neighbour_similarity`` (cosine) and ``neighbour_COLUMN``, lists of the K neighbours,
        nearest first.

        Raises
        ------
        ValueError
            As `Reference.search`.
        """
        settings = self.settings
        found = self.reference.search(query_QD, settings.neighbours, model=model)
        share_QC = self._shares(found)
        winner_Q, best_Q = share_QC.argmax(axis=1), share_QC.max(axis=1)
        confidence_Q = self.calibration(best_Q)
        novelty_Q = self._novelty(found)
        unsure_Q = (confidence_Q < settings.unknown_below) | (best_Q == 0)
        broad_Q, broad_confidence_Q = self._back_off(share_QC, winner_Q)
        predicted = pa.array(winner_Q, mask=best_Q == 0)
        return pa.table(
            {
                "cell": pa.array([str(cell) for cell in cells]),
                "predicted": pa.array(self.labels, pa.string()).take(predicted),
                "confidence": confidence_Q,
                "novelty": novelty_Q,
                "unknown": unsure_Q | (novelty_Q > settings.novelty_quantile),
                "broad": pa.array(self.terms, pa.string()).take(
                    pa.array(broad_Q, mask=broad_Q < 0)
                ),
                "broad_confidence": broad_confidence_Q,
                **self._describe(found),
            }
        )

    def _novelty(self, found: Neighbours) -> NDArray[np.float64]:
        nearer_Q = np.searchsorted(self._distances_S, _mean_distance(found))
        return np.asarray(nearer_Q / len(self._distances_S))

    def _back_off(
        self, share_QC: NDArray[np.float64], winner_Q: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Most specific term that is sure enough, of those that the winner is a kind of; -1: none.

        Specific is a term of which the reference has few cells.
        """
        confidence_QT = self.calibration(share_QC @ self._kind_CT)
        sure_QT = (confidence_QT >= self.settings.unknown_below) & self._kind_CT[winner_Q]
        size_QT = np.where(sure_QT, self._n_cells_T, np.inf)
        term_Q = size_QT.argmin(axis=1)
        none_Q = ~sure_QT.any(axis=1)
        confidence_Q = confidence_QT[np.arange(len(term_Q)), term_Q]
        return np.where(none_Q, -1, term_Q), np.where(none_Q, 0.0, confidence_Q)

    def _describe(self, found: Neighbours) -> dict[str, pa.Array]:
        k = found.rows_QK.shape[1]
        columns = [SOMA_JOINID, *self.settings.report_columns]
        values = self.reference.labels.values(columns, found.rows_QK.ravel())
        lists = {
            f"neighbour_{name}": pa.FixedSizeListArray.from_arrays(values[name].combine_chunks(), k)
            for name in columns
        }
        cosines = pa.array(found.similarity_QK.ravel(), mask=found.rows_QK.ravel() < 0)
        lists["neighbour_similarity"] = pa.FixedSizeListArray.from_arrays(cosines, k)
        return lists


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
