"""Metrics of labels, held to what can be counted by hand and to scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from scgpt_core import label_metrics
from scgpt_core.label_metrics import Labels
from scgpt_core.scores import LABEL_METRICS, learning_curve, score_predictions, summarise_scores


def labels(true: str, predicted: str, confidence: list[float], classes: str = "abc") -> Labels:
    confidence_M = np.array(confidence)
    return Labels(
        np.array(["unknown" if name == "?" else name for name in true]),
        np.array(list(predicted)),
        confidence_M,
        confidence_M < 0.5,
        tuple(classes),
    )


#           type d is new to the reference, the last cell's type is not known
MIXED = labels("aaabbdd?", "aabbacaa", [0.9, 0.8, 0.4, 0.7, 0.6, 0.3, 0.95, 0.9])


def test_cells_of_types_that_the_reference_lacks_count_apart() -> None:
    assert label_metrics.accuracy(MIXED) == pytest.approx(3 / 5)
    assert label_metrics.covered(MIXED) == pytest.approx(4 / 5)
    assert label_metrics.covered_accuracy(MIXED) == pytest.approx(3 / 4)
    assert label_metrics.novel_unknown(MIXED) == pytest.approx(1 / 2)
    # of the ten pairs of a new cell and another, the new one is less sure in five
    assert label_metrics.novel_auroc(MIXED) == pytest.approx(5 / 10)


def test_precision_recall_and_f1_are_those_of_scikit_learn() -> None:
    table = MIXED.by_label
    assert table.loc["a"].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 3])
    assert table.loc["b"].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2, 2])
    expected = f1_score(list("aaabb"), list("aabba"), average="macro")
    assert label_metrics.macro_f1(MIXED) == pytest.approx(expected)


def test_the_curve_of_coverage_covers_equal_confidence_together() -> None:
    curve = labels("aaaa", "aaba", [0.9, 0.6, 0.6, 0.2]).coverage_curve
    assert curve["coverage"].tolist() == [1 / 4, 3 / 4, 1]
    assert curve["accuracy"].tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    area = 1 / 4 * 1 + 1 / 2 * 2 / 3 + 1 / 4 * 3 / 4
    assert label_metrics.selective_accuracy(
        labels("aaaa", "aaba", [0.9, 0.6, 0.6, 0.2])
    ) == pytest.approx(area)


def test_calibration_is_one_less_the_distance_of_confidence_and_accuracy() -> None:
    sure = labels("aaaa", "aabb", [1, 1, 1, 1])
    assert label_metrics.calibration(sure) == pytest.approx(0.5)
    honest = labels("aaaa", "aabb", [0.5] * 4)
    assert label_metrics.calibration(honest) == pytest.approx(1)


def test_what_is_not_defined_is_missing() -> None:
    unlabelled = labels("???", "aab", [0.9, 0.8, 0.7])
    values = {name: metric.compute(unlabelled) for name, metric in LABEL_METRICS.items()}
    assert np.isnan(list(values.values())).all()


def predictions(right: dict[float, int]) -> pd.DataFrame:
    """Ten cells by share of the labels, of which so many have the right label."""
    rows = [
        ("a" if i % 2 else "b", share, ("a" if i % 2 else "b") if i < n else "c")
        for share, n in right.items()
        for i in range(10)
    ]
    table = pd.DataFrame(rows, columns=["label", "label_share", "predicted"])
    columns = {f"probability: {name}": 0.5 for name in "abc"}
    return table.assign(confidence=0.5, unknown=False, **columns)


def test_scores_are_of_all_labels_with_those_of_fewer_beside_them() -> None:
    scores = score_predictions(predictions({0.1: 4, 1.0: 8})).set_index("metric")["value"]
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["accuracy_at_10"] == pytest.approx(0.4)
    assert scores["recall/a"] == pytest.approx(0.8)
    assert scores["f1/b"] == pytest.approx(2 * 0.8 / 1.8)
    assert "f1/c" not in scores
    assert list(scores.index[: len(LABEL_METRICS)]) == list(LABEL_METRICS)


def test_the_learning_curve_ascends_by_share() -> None:
    scores = score_predictions(predictions({0.3: 6, 1.0: 8, 0.1: 4}))
    scores = scores.assign(task="annotation", dataset="d", method="m", seed=0)
    curve = learning_curve(summarise_scores(scores), dataset="d", method="m")
    assert curve["share of the labels"].tolist() == [0.1, 0.3, 1.0]
    assert curve["macro-F1"].is_monotonic_increasing
