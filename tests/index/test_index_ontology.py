"""Terms are found by any of their names, and stand in their order."""

from pathlib import Path

import numpy as np
import pytest

from scgpt_core.config import read_table
from scgpt_core.data.labels import LabelRow
from scgpt_core.index import read_ontology

RESOURCES = Path(__file__).parents[2] / "resources"


@pytest.fixture(scope="module")
def ontology():
    return read_ontology(RESOURCES / "cell_ontology.tsv")


def test_kinds_by_name_and_id(ontology) -> None:
    assert ontology.is_kind_of("CD4-positive, alpha-beta T cell", "T cell")
    assert ontology.is_kind_of("CL:0000624", "t cell")
    assert not ontology.is_kind_of("T cell", "CD4-positive, alpha-beta T cell")
    assert not ontology.is_kind_of("B cell", "T cell")
    assert ontology.is_kind_of("A549", "A549")
    assert not ontology.is_kind_of("A549", "cell")
    assert not ontology.is_kind_of("A549", "H1975")


def test_every_type_of_the_demo_is_a_kind_of_cell(ontology) -> None:
    for row in read_table(RESOURCES / "cell_types.tsv", LabelRow).values():
        term = ontology.find(row.cell_type)
        assert term == row.cell_type_ontology_term_id, row
        assert "CL:0000000" in ontology.ancestors(term)


def test_kinds_of_labels_and_the_terms_above_them(ontology) -> None:
    labels = ["classical monocyte", "non-classical monocyte", "monocyte", "A549"]
    names, kind = ontology.kinds(labels)
    assert names[:4] == labels
    expected = [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(kind[:, :4], np.array(expected, bool))
    leukocyte = names.index("leukocyte")
    assert kind[:, leukocyte].tolist() == [True, True, True, False]
    assert "T cell" not in names


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("CL:1\tone\tCL:9", r"CL:1 is a CL:9, which is in no row"),
        ("CL:1\tone\t\nCL:2\tOne\t", r"'One' names both CL:1 and CL:2"),
    ],
)
def test_a_faulty_table_is_refused(rows: str, said: str, tmp_path: Path) -> None:
    table = tmp_path / "terms.tsv"
    table.write_text(f"id\tname\tis_a\n{rows}\n")
    with pytest.raises(ValueError, match=said):
        read_ontology(table)
