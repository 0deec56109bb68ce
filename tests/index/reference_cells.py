"""A small reference with known geometry: three cell types, two data sets, some cells unlabelled."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from scgpt_core.index import write_embeddings

ORIGIN = {
    "model": "m" * 64,
    "corpus": "c" * 64,
    "precision": "float32",
    "settings": {"max_tokens": 8},
}
WIDTH = 16
TYPES = ("B cell", "T cell", "monocyte")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def draw(types: np.ndarray, seed: int) -> np.ndarray:
    """Cells around the axis of their type."""
    noise = np.random.default_rng(seed).normal(0, 0.15, (len(types), WIDTH))
    return unit(np.eye(WIDTH)[types] + noise)


def write_shard(
    folder: Path, shard: int, n_cells: int = 150, noise: float = 0, **origin: str
) -> Path:
    rng = np.random.default_rng(shard)
    types = rng.integers(0, 3, n_cells)
    labels = np.array(TYPES)[types]
    labels[rng.random(n_cells) < 0.1] = "unknown"
    obs = pa.table(
        {
            "soma_joinid": 1000 * shard + np.arange(n_cells),
            "cell_type": labels,
            "dataset_id": np.array(["one", "two"])[rng.integers(0, 2, n_cells)],
            "tissue_general": ["blood"] * n_cells,
        }
    )
    emb = draw(types, seed=shard)
    emb = unit(emb + noise * np.random.default_rng(99).normal(size=emb.shape))
    path = folder / f"shard_{shard}.arrow"
    write_embeddings(path, obs, [emb[:64], emb[64:]], origin=ORIGIN | origin)
    return path
