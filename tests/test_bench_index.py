"""The cells of bench-index: drawn anew on every reading, and the same."""

import numpy as np
import pytest

from benchmarks import bench_index as bench
from scgpt_core.index.neighbours import search_exactly


def test_drawn_cells_are_read_as_embeddings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CHUNK", 100)
    mixture = bench.Mixture()
    latents, cells = (kind(mixture, n_cells=250) for kind in (bench.Latents, bench.Cells))
    parts = dict(cells.chunks(100))
    assert [(first, len(part)) for first, part in parts.items()] == [
        (0, 100),
        (100, 100),
        (200, 50),
    ]
    everything = np.concatenate(list(parts.values()))
    assert everything.shape == (250, cells.width)
    rows = np.array([0, 99, 100, 249])
    np.testing.assert_array_equal(cells.rows(rows), everything[rows])
    assert [first for first, _ in cells.chunks(100, first=100)] == [100, 200]
    near = search_exactly(latents, latents.rows(rows), 3)
    assert near.rows_QK[:, 0].tolist() == rows.tolist()
    cosine = everything[rows] @ everything.T
    np.testing.assert_allclose(near.similarity_QK, -np.sort(-cosine, axis=1)[:, :3], atol=1e-5)
