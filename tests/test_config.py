"""The config: what is right passes, what is wrong is named with its path and the allowed values."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from snakemake.utils import update_config

from scgpt_core.config import (
    DatasetRow,
    ExpectedRow,
    ModelRow,
    leave_out_missing,
    load_config,
    read_table,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "config").glob("*.yaml")), ROOT / "tests/smoke/config.yaml"], ids=str
)
def test_every_config_of_the_repository_is_valid(demo: dict[str, Any], path: Path) -> None:
    update_config(demo, yaml.safe_load(path.read_text()))  # as `--configfile` does
    cfg, tables = load_config(demo, ROOT)
    assert cfg.corpus in tables.corpora


def test_values_arrive_and_the_rest_are_defaults(demo: dict[str, Any]) -> None:
    demo["pretrain"]["trainer"] = {"batch_cells": 7}
    cfg, _ = load_config(demo, ROOT)
    assert cfg.pretrain.trainer.batch_cells == 7
    assert cfg.pretrain.trainer.weight_decay == 0.01


def test_a_corpus_can_have_thresholds_of_its_own(demo: dict[str, Any]) -> None:
    demo["qc_by_corpus"] = {"kidney": {"min_genes": 500, "assays": ["10x 3' v3"]}}
    cfg, _ = load_config(demo, ROOT)
    differs = {"min_genes": 500, "assays": ("10x 3' v3",)}
    assert cfg.qc_of("kidney") == cfg.qc.model_copy(update=differs)
    assert cfg.qc_of("demo") == cfg.qc


def test_an_imported_model_may_stand_beside_any_corpus(demo: dict[str, Any]) -> None:
    demo |= {"model": "blood", "checkpoints": {"blood": "/x"}}
    assert load_config(demo, ROOT)[0].corpus == "demo"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pretrain": {"larning_rate": 1}}, "pretrain.larning_rate: no such key (found 1)"),
        ({"pretrain": {"trainer": {"batch_cells": "many"}}}, "pretrain.trainer.batch_cells: "),
        ({"qc": {"max_mito_share": 1.5}}, "qc.max_mito_share: "),
        (
            {"pretrian": {"trainer": {"steps": 1}}},
            (
                "config: pretrian: no such key (found the keys trainer). Perhaps pretrain? "
                "Allowed: seed, portable_numerics, corpora, "
            ),
        ),
        (
            {"networks": {"datasets": {"kang": {"perturbd": "stim"}}}},
            (
                "networks.datasets.kang.perturbd: no such key (found 'stim'). Perhaps perturbed? "
                "Allowed: labels, "
            ),
        ),
        (
            {"embed": {"colour": 1}},
            "embed.colour: no such key (found 1). Allowed: max_tokens, ",
        ),
        ({"qc_by_corpus": {"demo": {"min_gens": 3}}}, "qc_by_corpus.demo.min_gens: no such key"),
        ({"qc_by_corpus": {"moon": {}}}, "qc_by_corpus: moon is in no row of its table"),
        ({"pretrain": {"architecture": {"width": 30, "n_heads": 4}}}, "not a multiple of n_heads"),
        ({"corpus": "dmo"}, "corpus: dmo is in no row of its table; allowed: "),
        ({"model": "blood"}, "trains the model blood on blood, and cells of the benchmark are"),
        ({"corpus": "blood"}, "corpus: blood, but config/models.tsv trains the model demo on demo"),
        ({"benchmark": {"integration": ["pbmc"]}}, "benchmark.integration: pbmc is in no row"),
        ({"benchmark": {"methods": ["magic"]}}, "allowed: additive, bbknn, cell_mean, "),
        ({"benchmark": {"annotation": ["cellmix"]}}, "names no query batches of cellmix"),
        (
            {"benchmark": {"annotation": ["ms"]}},
            "get resources/published/ms_reference.h5ad from https://drive.google.com/",
        ),
        ({"index": {"queries": ["pbmc_10k"]}}, "pbmc_10k: get resources/published/pbmc_10k.h5ad"),
        ({"index": {"reference": ["demo", "lung_kim"]}}, "lung_kim: get resources/published/"),
        ({"generation": {"datasets": ["perirhinal"]}}, "perirhinal: get resources/published/"),
        ({"generation": {"rounds": []}}, "generation.rounds: Value error, []: give one number"),
        ({"generation": {"rounds": [4, 1]}}, "[4, 1]: give one number at least, each once, from"),
        ({"networks": {"datasets": {"covid_19": {}}}}, "covid_19: get resources/published/"),
        ({"benchmark": {"perturbation": ["lung_kim"]}}, "lung_kim: get resources/published/"),
        ({"index": {"reference": ["zheng", "zheng"]}}, "index.reference: zheng stands there twice"),
        (
            {"benchmark": {"integration": ["cellmix"], "methods": ["knn_pca"]}},
            (
                "benchmark.integration: benchmark.methods has no method for cellmix. Methods of "
                "this task: bbknn, few_genes_pca,"
            ),
        ),
        (
            {"benchmark": {"perturbation": ["papalexi"], "methods": ["technical_duplicate"]}},
            "or leave the data sets out: benchmark: {perturbation: []}",
        ),
        ({"benchmark": {"multiomics": ["cellmix"]}}, "names no modalities of cellmix"),
        ({"annotation": {"labels": {"low_data_shares": [1]}}}, "annotation.labels.low_data_shares"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0 (found -1)"),
        ({"benchmark": {"seeds": []}}, "benchmark.seeds: Tuple should have at least 1 item"),
        ({"benchmark": {"seeds": [0, -1]}}, "benchmark.seeds.1: Input should be greater than"),
        ({"benchmark": {"seeds": [0, 1, 0]}}, "benchmark.seeds: Value error, 0 stands there twice"),
        ({"benchmark": {"methods": ["harmony", "harmony"]}}, "harmony stands there twice"),
        ({"benchmark": {"integration": ["cellmix", "cellmix"]}}, "cellmix stands there twice"),
        ({"index": {"queries": ["pbmc3k", "pbmc3k"]}}, "index.queries: Value error, pbmc3k stands"),
        ({"generation": {"datasets": ["bremsc", "bremsc"]}}, "bremsc stands there twice"),
        ({"index": {"queries": ["nothing"]}}, "index.queries: nothing"),
        ({"networks": {"datasets": {"x": {}}}}, "networks.datasets: x is in no row of its table"),
        (
            {"networks": {"datasets": {"pbmc3k": {"control": "ctrl"}}}},
            "networks.datasets.pbmc3k: Value error, control and perturbed are two conditions",
        ),
        ({"checkpoints": {"nobody": "/x"}}, "checkpoints: nobody"),
        ({"models": "config/none.tsv"}, "none.tsv does not exist"),
    ],
)
def test_what_is_wrong_is_named(demo: dict[str, Any], change: dict[str, Any], said: str) -> None:
    config = copy.deepcopy(demo) | change
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is looked at below)
        load_config(config, ROOT)
    assert said in str(caught.value)


def test_methods_that_are_not_installed_may_leave_none(
    demo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo["benchmark"] = {"integration": ["cellmix"], "methods": ["harmony", "scvi"]}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert leave_out_missing(*load_config(demo, ROOT)).benchmark.methods == ("harmony",)
    demo["benchmark"]["methods"] = ["scvi"]
    config = load_config(demo, ROOT)
    with pytest.raises(ValueError, match=r"benchmark\.integration: .* has no method for cellmix"):
        leave_out_missing(*config)


@pytest.mark.parametrize(
    ("table", "row", "said"),
    [
        ("datasets", {"dataset": "demo", "path": "a.h5ad"}, "demo is both in config/corpora.tsv"),
        (
            "methods",
            {"method": "gears", "task": "perturbation", "rule": "baseline", "requires": "gears"},
            "gears requires gears, and no rule runs it",
        ),
    ],
)
def test_a_row_that_no_rule_can_take_is_named(
    demo: dict[str, Any], tmp_path: Path, table: str, row: dict[str, str], said: str
) -> None:
    rows = pd.read_csv(ROOT / demo[table], sep="\t", dtype=str)
    rows = pd.concat([rows, pd.DataFrame([row | {"title": "T"}])])[rows.columns]
    demo[table] = str(tmp_path / "table.tsv")
    rows.to_csv(demo[table], sep="\t", index=False)
    with pytest.raises(ValueError, match=said):
        load_config(demo, ROOT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model\tcorpus\nm\tdemo\nm\tdemo\n", "line 3: 'm' stands there twice"),
        ("model\tcorpus\nm\n", "line 2: not as many columns"),
        ("model\tcorpus\nm\tdemo\tx\n", "line 2: not as many columns"),
        ("model\tcorpus\tcolour\nm\tdemo\tred\n", "colour: no such key"),
        ("model\tcorpus\n../m\tdemo\n", "line 2: model: "),
    ],
)
def test_a_wrong_table_row_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "models.tsv").write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_table(tmp_path / "models.tsv", ModelRow)
    assert said in str(caught.value)


def test_config_never_imports_torch() -> None:
    code = "import scgpt_core.config, sys; assert not {'torch', 'scanpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def read_queries(table: Path, *lines: str) -> list[tuple[str, ...]]:
    """Queries of the data sets of a table that is made of lines `description, query`."""
    rows = [f"d{number}\td.h5ad\t{line}\n" for number, line in enumerate(lines)]
    table.write_text("dataset\tpath\tdescription\tquery\n" + "".join(rows))
    return [row.query for row in read_table(table, DatasetRow).values()]


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ('"donor 1" "donor 2"', ("donor 1", "donor 2")),
        ('"donor 1"', ("donor 1",)),
        ("10x_3' 10x_5'", ("10x_3'", "10x_5'")),
        ('"10x 3\' v2" b\\1 #2', ("10x 3' v2", "b\\1", "#2")),
        ('"""donor 1"" ""donor 2"""', ("donor 1", "donor 2")),  # as pandas writes the first
    ],
)
def test_names_with_blanks_are_quoted_in_tables(
    tmp_path: Path, cell: str, names: tuple[str, ...]
) -> None:
    assert read_queries(tmp_path / "t.tsv", f"\t{cell}") == [names]


def test_a_quote_in_a_text_takes_no_other_rows(tmp_path: Path) -> None:
    assert read_queries(tmp_path / "t.tsv", '"PBMC\ta', '5" wide\tb') == [("a",), ("b",)]
    with pytest.raises(ValueError, match=r"t\.tsv, line 3: query: .*No closing quotation.*'\"a b'"):
        read_queries(tmp_path / "t.tsv", "\ta", '\t"a b')


def test_tables_that_other_programs_write_are_read(tmp_path: Path) -> None:
    filters = ['cell_type == "B cell"', "a\"b\" == 'c'", "10x 3' v2", '"x" == y', "µ"]
    table = pd.DataFrame({"dataset": list("abcde"), "path": "d.h5ad", "obs_filter": filters})
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False, encoding="utf-8-sig")
    rows = read_table(tmp_path / "t.tsv", DatasetRow)
    assert [row.obs_filter for row in rows.values()] == filters


def test_tables_of_spreadsheets_have_cells_quoted_for_their_commas(tmp_path: Path) -> None:
    cells = ("a", '"d,1.h5ad"', "\"batch in ['a', 'b']\"", '"donor 1" x')
    header = ("dataset", "path", "obs_filter", "query")
    (tmp_path / "t.tsv").write_text("".join("\t".join(line) + "\n" for line in (header, cells)))
    row = read_table(tmp_path / "t.tsv", DatasetRow)["a"]
    assert (row.path, row.obs_filter) == ("d,1.h5ad", "batch in ['a', 'b']")
    assert row.query == ("donor 1", "x")


def test_a_published_value_is_of_a_metric_of_its_task() -> None:
    row = {"dataset": "d", "method": "m", "value": 0.5, "source": "a paper"}
    ExpectedRow.model_validate(row | {"task": "annotation", "metric": "macro_f1"})
    with pytest.raises(ValueError, match="metric pearson is none of annotation: accuracy, macro"):
        ExpectedRow.model_validate(row | {"task": "annotation", "metric": "pearson"})
