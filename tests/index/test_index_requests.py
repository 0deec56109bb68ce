"""Memory that jobs ask for to make an index grows with what they read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HELPERS = Path(__file__).parents[2] / "rules/helpers/index.smk"


class Inputs(SimpleNamespace):
    """Files of a job by name, as Snakemake gives them."""

    def __iter__(self) -> Any:
        return (file for files in vars(self).values() for file in files)


def test_a_request_grows_with_embeddings_and_with_what_is_merged(tmp_path: Path) -> None:
    source = HELPERS.read_text()
    names: dict[str, Any] = {"Path": Path}
    exec(source[source.index("def get_size_mb") :], names)
    sizes = {"embeddings/a.arrow": 300, "embeddings/b.arrow": 100, "index.faiss": 50}
    (tmp_path / "embeddings").mkdir()
    for name, megabytes in sizes.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(megabytes * 10**6)
    path = {name: str(tmp_path / name) for name in sizes}
    embeddings = [path["embeddings/a.arrow"], path["embeddings/b.arrow"]]

    def ask(attempt: int = 1, **files: list[str]) -> int:
        return names["get_index_mem_mb"](None, Inputs(**files), attempt)

    assert ask(embeddings=embeddings[:1]) == 1030
    assert ask(embeddings=embeddings) == 1040
    base = [path["index.faiss"]]
    assert ask(embeddings=embeddings, indexed=base) == 1140
    assert ask(embeddings=embeddings, indexed=base, attempt=2) == 2280
    with pytest.raises(FileNotFoundError):  # which Snakemake takes for "to be known later"
        ask(embeddings=[str(tmp_path / "embeddings/none.arrow")])
    assert ask(embeddings=["<TBD>"]) == 1000  # before the cells of a corpus are known


def test_the_rule_asks_so() -> None:
    rules = (HELPERS.parents[1] / "index.smk").read_text()
    body = rules[rules.index("rule build_index:") :]
    assert body[body.index("mem_mb=") :].startswith("mem_mb=get_index_mem_mb,")
