"""Memory that jobs on a data set ask for grows with it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from graph import ROOT

from scgpt_core.config import DatasetRow


def test_a_request_grows_with_the_files_of_a_data_set(tmp_path: Path) -> None:
    for name, megabytes in (("a", 100), ("b", 400)):
        with (tmp_path / f"{name}.h5ad").open("wb") as file:
            file.truncate(megabytes * 10**6)
    rows = (
        *(DatasetRow(dataset=name, path=str(tmp_path / f"{name}.h5ad")) for name in "ab"),
        DatasetRow(dataset="both", parts="a b"),
        DatasetRow(dataset="far", path="https://example.org/far.h5ad"),
    )
    tables = SimpleNamespace(datasets={row.dataset: row for row in rows})
    names: dict[str, Any] = {"Path": Path, "TABLES": tables, "get_path": str}
    exec((ROOT / "rules/helpers/tasks.smk").read_text(), names)
    ask = names["get_dataset_mem_mb"](500, times=20, least=4000)

    def asked(dataset: str, attempt: int = 1) -> int:
        return ask(SimpleNamespace(dataset=dataset), attempt)

    assert [asked(row.dataset) for row in rows] == [4000, 8500, 10500, 4000]
    assert asked("b", attempt=2) == 17000


def test_the_rules_ask_so() -> None:
    for stage, rule in (
        ("tasks", "prepare_dataset"),
        ("tasks", "merge_datasets"),
        ("tasks", "baseline"),
        ("benchmark", "score"),
    ):
        text = (ROOT / f"rules/{stage}.smk").read_text()
        body = text[text.index(f"rule {rule}:") :]
        assert body[body.index("mem_mb=") :].startswith("mem_mb=get_dataset_mem_mb("), rule
