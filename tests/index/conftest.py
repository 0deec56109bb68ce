"""A small reference, built once."""

from pathlib import Path

import pytest
from reference_cells import write_shard

from scgpt_core.config import IndexSettings
from scgpt_core.index import build_index


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("embeddings")
    return [write_shard(folder, shard) for shard in range(3)]


@pytest.fixture(scope="session")
def exact_folder(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    build_index(shards, folder, settings=IndexSettings())
    return folder
