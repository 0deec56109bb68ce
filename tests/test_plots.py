"""Figures show the numbers that they were given: artists and labels against literal data."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scgpt_core import plots
from scgpt_core.keys import UNKNOWN


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_categories_differ_in_colour_or_marker_and_unknown_is_last() -> None:
    styles = plots.assign_styles([UNKNOWN, *(f"type {i:02d}" for i in range(25))])
    assert len(set(styles.values())) == 26
    assert list(styles)[-1] == UNKNOWN
    assert styles == plots.assign_styles(reversed(list(styles)))
    assert plots.assign_styles(["a"])["a"] == plots.assign_styles(["a", UNKNOWN])["a"]


def test_embeddings_are_a_grid_of_columns_and_methods() -> None:
    layouts = {"A": np.array([[0, 0], [1, 1], [2, 0]], "f4"), "B": np.zeros((3, 2), "f4")}
    cells = pd.DataFrame({"batch": ["x", "y", "x"], "label": ["t", UNKNOWN, "t"]})
    figure = plots.plot_embeddings(layouts, {"A": cells, "B": cells}, columns=["batch", "label"])
    assert len(figure.axes) == 4
    assert [ax.get_title() for ax in figure.axes] == ["A", "B", "", ""]
    assert legend(figure.axes[1]) == ["x", "y"]
    assert legend(figure.axes[3]) == ["t", UNKNOWN]
    (points,) = figure.axes[0].collections
    drawn = {
        tuple(xy): mpl.colors.to_hex(c)
        for xy, c in zip(points.get_offsets().tolist(), points.get_facecolors(), strict=True)
    }
    styles = plots.assign_styles(["x", "y"])
    assert drawn == {(0, 0): styles["x"][0], (1, 1): styles["y"][0], (2, 0): styles["x"][0]}


def test_the_learning_curve_has_a_panel_an_objective_and_its_baselines() -> None:
    curve = pd.DataFrame(
        [
            (2, "training", "GEP", 3.0),
            (1, "training", "GEP", 5.0),
            (1, "held out", "GEP", 4.0),
            (1, "training", "GEPC", 6.0),
        ],
        columns=["step", "split", "objective", "value"],
    )
    figure = plots.plot_learning_curve(curve, baselines={"GEP": {"per-gene mean": 2.5}})
    gep, gepc = figure.axes
    assert (gep.get_title(), gepc.get_title()) == ("GEP", "GEPC")
    assert legend(gep) == ["training", "held out", "per-gene mean"]
    assert gep.lines[0].get_xydata().tolist() == [[1, 5], [2, 3]]
    assert list(gep.lines[2].get_ydata()) == [2.5, 2.5]
    assert legend(gepc) == ["training"]


def test_the_score_table_marks_the_best_and_what_is_missing() -> None:
    table = pd.DataFrame(
        {"NMI": [0.5, 0.75], "PCR": [0.25, np.nan]}, index=["HVG + PCA", "scGPT, zero-shot"]
    )
    groups = {"NMI": "biology", "PCR": "batches"}
    (ax,) = plots.plot_scores(table, groups=groups, baselines=["HVG + PCA"]).axes
    cells = {text.get_text(): text.get_fontweight() for text in ax.texts[:4]}
    assert cells == {"0.500": "normal", "0.750": "bold", "0.250": "bold", "–": "normal"}
    assert texts(ax)[4:] == ["biology", "batches"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["NMI", "PCR"]
    styles = {label.get_text(): label.get_fontstyle() for label in ax.get_yticklabels()}
    assert styles == {"HVG + PCA": "italic", "scGPT, zero-shot": "normal"}


def test_a_metric_that_is_not_defined_at_all_has_dashes() -> None:
    table = pd.DataFrame({"PCR": [np.nan, np.nan]}, index=["a", "b"])
    (ax,) = plots.plot_scores(table, groups={"PCR": "batches"}).axes
    assert texts(ax) == ["–", "–", "batches"]


def test_the_ranking_gives_the_difference_from_the_best_baseline() -> None:
    runs = pd.DataFrame(
        [
            ("d", "HVG", 0, 0.5),
            ("d", "Harmony", 0, 0.6),
            ("d", "scGPT", 0, 0.6),
            ("d", "scGPT", 1, 0.9),
            ("d", "totalVI", 0, np.nan),  # which imputes no peaks
        ],
        columns=["dataset", "method", "seed", "value"],
    )
    (ax,) = plots.plot_ranking(runs, metric="Overall", baselines=["HVG", "Harmony"]).axes
    rows = dict(zip((t.get_text() for t in ax.get_yticklabels()), texts(ax), strict=True))
    assert rows == {"HVG": "−0.100", "Harmony": "+0.000", "scGPT": "+0.150"}
    assert list(rows)[-1] == "scGPT"
    assert (ax.get_title(), ax.get_xlabel()) == ("d", "Overall")
    assert ax.lines[-1].get_xdata()[0] == 0.6


def test_a_score_below_zero_is_in_the_picture() -> None:
    """Correlations may be negative."""
    runs = pd.DataFrame(
        {"dataset": "d", "method": ["A", "B"], "seed": [0, 0], "value": [-0.3, 0.5]}
    )
    (ax,) = plots.plot_ranking(runs, metric="Pearson's r", baselines=["A"]).axes
    assert ax.get_xlim() == (-0.3, 1)


def test_a_ranking_without_baselines_has_no_line() -> None:
    runs = pd.DataFrame([("d", "scGPT", 0, 0.6)], columns=["dataset", "method", "seed", "value"])
    (ax,) = plots.plot_ranking(runs, metric="Overall", baselines=[]).axes
    assert (len(ax.lines), texts(ax)) == (0, [])


def test_confusion_rows_are_shares_of_the_true_label() -> None:
    truth = ["B", "B", "B", "B", "T", "NK"]
    predicted = ["B", "B", "B", "T", "T", UNKNOWN]
    ax = plots.plot_confusion(truth, predicted).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["B (4)", "NK (1)", "T (1)"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["B", "NK", "T", UNKNOWN]
    (image,) = ax.images
    np.testing.assert_array_equal(
        image.get_array(), [[0.75, 0, 0.25, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    )
    assert sorted(texts(ax)) == ["100", "100", "25", "75"]


def test_histograms_count_every_cell_once_in_the_colour_of_its_group() -> None:
    nothing = np.array([])
    figure = plots.plot_histograms(
        {
            "confidence": {"right": np.array([0.9, 0.8, 0.95]), "wrong": np.array([0.2])},
            "novelty": {"right": nothing, "wrong": np.array([0.5, 0.6])},
        },
        thresholds={"confidence": 0.5},
    )
    confidence, novelty = figure.axes
    for ax, cells in ((confidence, [3, 1]), (novelty, [0, 2])):
        assert [sum(bar.get_height() for bar in group) for group in ax.containers] == cells
    assert legend(confidence) == ["right", "wrong", "threshold 0.5"]
    assert legend(novelty) == ["wrong"]
    assert (confidence.get_xlabel(), novelty.get_xlabel()) == ("confidence", "novelty")
    wrong = [ax.containers[1][0].get_facecolor() for ax in figure.axes]
    assert wrong[0] == wrong[1] != confidence.containers[0][0].get_facecolor()


def test_a_query_is_shown_on_its_reference_with_confidence_and_novelty() -> None:
    cells = pd.DataFrame(
        {"predicted": ["t", None], "confidence": [0.9, 0.2], "novelty": [0.3, 0.995]}
    )
    query = np.array([[0, 0.5], [1, 0.5]], "f4")
    figure = plots.plot_mapping(
        np.array([[0, 0], [1, 1], [2, 0]], "f4"),
        ["t", "s", "t"],
        query,
        cells,
        novelty_threshold=0.99,
    )
    reference, predicted, confidence, novelty = figure.axes[:4]
    assert len(reference.collections[0].get_offsets()) == 3
    assert sorted(predicted.collections[1].get_offsets().tolist()) == query.tolist()
    assert confidence.collections[1].get_array().tolist() == [0.9, 0.2]
    assert legend(novelty) == ["not novel (1)", "novel (1)"]
    (categories,) = figure.legends
    assert [text.get_text() for text in categories.get_texts()] == ["s", "t", UNKNOWN]


def test_the_funnel_says_what_is_left_and_what_was_lost() -> None:
    (ax,) = plots.plot_funnel({"all cells": 1200, "at least 200 genes": 1150, "assay": 1150}).axes
    assert [bar.get_width() for bar in ax.patches] == [1200, 1150, 1150]
    assert [text.strip() for text in texts(ax)] == ["1,200", "1,150  (−50)", "1,150"]
    assert ax.yaxis_inverted()


def test_counts_are_sorted_by_size() -> None:
    (ax,) = plots.plot_counts({"few": 1, "many": 3, "also few": 1}, label="cell type").axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["many", "also few", "few"]


def test_costs_are_medians_by_method() -> None:
    costs = pd.DataFrame(
        [("slow", 100.0, 50.0), ("slow", 200.0, 70.0), ("fast", 1.0, 90.0)],
        columns=["method", "seconds", "peak_memory_mb"],
    )
    seconds, memory = plots.plot_costs(costs).axes
    assert texts(seconds) == ["1.0", "150"]
    assert texts(memory) == ["90.0", "60.0"]
    assert [t.get_text() for t in seconds.get_yticklabels()] == ["fast", "slow"]
    assert len(seconds.collections[1].get_offsets()) == 2


def test_curves_have_a_panel_a_data_set_and_a_colour_a_method() -> None:
    line = pd.DataFrame({"coverage": [0.5, 1.0], "accuracy": [1.0, 0.8]})
    band = line.assign(low=[0.9, 0.7], high=[1.0, 0.9])
    figure = plots.plot_curves(
        {"d": {"A": line, "B": band}, "e": {"B": line}},
        x="coverage",
        y="accuracy",
        diagonal=True,
    )
    d, e = figure.axes
    assert [ax.get_title() for ax in (d, e)] == ["d", "e"]
    _, a, b = d.lines
    assert a.get_xydata().tolist() == [[0.5, 1.0], [1.0, 0.8]]
    assert len(d.collections) == 1  # the interval of B
    assert b.get_color() == e.lines[1].get_color() != a.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B"]


def test_drawing_leaves_the_users_style_alone() -> None:
    with mpl.rc_context({"font.size": 31.0}):
        figure = plots.plot_funnel({"all cells": 3})
        assert mpl.rcParams["font.size"] == 31.0
    assert figure.axes[0].texts[0].get_fontsize() == 9


def test_a_layout_is_seeded_and_keeps_groups_apart() -> None:
    rng = np.random.default_rng(0)
    emb_ND = np.concatenate([rng.normal(c, 0.1, (40, 5)) for c in (0, 5)]).astype("f4")
    layout = plots.compute_umap(emb_ND, seed=3)
    assert layout.dtype == np.float32
    np.testing.assert_array_equal(layout, plots.compute_umap(emb_ND, seed=3))
    gap = np.linalg.norm(layout[:40].mean(0) - layout[40:].mean(0))
    assert gap > 2 * max(layout[:40].std(), layout[40:].std())


def test_programs_that_are_active_alike_stand_together() -> None:
    activity = pd.DataFrame(
        [[1.0, 0, 0], [0, 0, 2], [1.1, 0, 0]], index=["1", "2", "3"], columns=["T", "B", "NK"]
    )
    titles = {"1": "1: first", "2": "2: second", "3": "3: third"}
    ax = plots.plot_activity(activity, titles=titles).axes[0]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert abs(rows.index("1: first") - rows.index("3: third")) == 1
    columns = [label.get_text() for label in ax.get_xticklabels()]
    shown = np.asarray(ax.images[0].get_array())
    assert shown[rows.index("2: second"), columns.index("NK")] == 2
    assert ax.images[0].get_clim() == (-2, 2)
    one = plots.plot_activity(activity.iloc[:1, :1], titles=titles).axes[0]
    assert len(one.get_yticks()) == 1


def test_enrichment_shows_the_best_sets_with_their_share() -> None:
    enrichment = pd.DataFrame(
        [("2", "a", 4, 8, 1e-6), ("10", "b", 2, 8, 0.01), ("10", "a", 8, 8, 0.02),
         ("1", "c", 1, 9, 0.5)],
        columns=["program", "gene_set", "overlap", "set_genes", "q"],
    )  # fmt: skip
    ax = plots.plot_enrichment(enrichment).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "10"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    dots = ax.collections[0]
    assert dots.get_offsets().tolist() == [[0, 0], [1, 1], [1, 0]]
    assert dots.get_sizes().tolist() == [125, 62.5, 250]
    np.testing.assert_allclose(dots.get_array(), -np.log10([1e-6, 0.01, 0.02]))


def test_a_network_has_signs_weights_and_what_is_known() -> None:
    edges = pd.DataFrame(
        [("A", "B", 2.0, 1, 1), ("A", "C", 1.0, -1, 0), ("B", "C", 0.5, 0, 0)],
        columns=["regulator", "target", "weight", "sign", "known"],
    )
    ax = plots.plot_network(edges, seed=0).axes[0]
    arrows = ax.patches
    assert [arrow.get_linewidth() for arrow in arrows] == [2.5, 1.5, 1.0]
    assert [arrow.get_linestyle() for arrow in arrows] == ["solid", "dashed", "dashed"]
    colours = [mpl.colors.to_hex(arrow.get_edgecolor()) for arrow in arrows]
    assert len(set(colours)) == 3
    assert sorted(texts(ax)) == ["A", "B", "C"]
    again = plots.plot_network(edges, seed=0).axes[0]
    assert [t.get_position() for t in ax.texts] == [t.get_position() for t in again.texts]
