"""Cell type labels: the names that authors gave, and the one name that all data sets share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from scgpt_core.config import Settings, read_table
from scgpt_core.keys import UNKNOWN


class LabelRow(Settings):
    """A row of resources/cell_types.tsv."""

    label: str
    """As the authors wrote it."""
    cell_type: str
    """As the Cell Ontology and the Census name it."""
    cell_type_ontology_term_id: str = UNKNOWN
    """Its id in the Cell Ontology."""


class Labels(NamedTuple):
    """Names and Cell Ontology ids of cells, `UNKNOWN` where there is none."""

    names: list[str]
    ids: list[str]


def harmonise_labels(labels: Iterable[Any], table: str | Path) -> Labels:
    """Give cell types the names of a table; labels that are not in it stay as they are.

    Parameters
    ----------
    labels
        One a cell; missing values become `UNKNOWN`.
    table
        Tab-separated, with the columns of `LabelRow`.
    """
    rows = read_table(Path(table), LabelRow)
    known = {row.cell_type: row for row in rows.values()} | rows
    names, ids = [], []
    for label in labels:
        # NaN, the missing value of pandas, is not equal to itself.
        text = UNKNOWN if label is None or label != label else str(label)
        row = known.get(text)
        names.append(row.cell_type if row else text)
        ids.append(row.cell_type_ontology_term_id if row else UNKNOWN)
    return Labels(names, ids)
