"""Queries are shown where the reference cells that they are like are shown."""

from pathlib import Path

import numpy as np
from reference_cells import draw

from scgpt_core.index import open_index
from scgpt_core.index.layout import lay_out


def test_queries_lie_among_reference_cells_of_their_kind(exact_folder: Path) -> None:
    reference = open_index(exact_folder)
    types = np.repeat([0, 1, 2], 20)
    rows, places, query = lay_out(reference.sample, draw(types, 5), seed=0, max_cells=300)
    assert places.shape == (300, 2)
    assert query.shape == (60, 2)
    codes = reference.labels.codes("cell_type")[rows]
    centre = np.stack([places[codes == code].mean(axis=0) for code in range(3)])
    nearest = np.linalg.norm(query[:, None] - centre, axis=2).argmin(axis=1)
    assert (nearest == types).mean() > 0.95
    again = lay_out(reference.sample, draw(types, 5), seed=0, max_cells=300)
    np.testing.assert_array_equal(again[2], query)
