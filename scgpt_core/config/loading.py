"""A config and its tables, validated together before any job starts."""

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scgpt_core.config.tables import (
    CorpusRow,
    DatasetRow,
    ExpectedRow,
    MethodRow,
    ModelRow,
    Tables,
    explain,
    read_rows,
    read_table,
)
from scgpt_core.config.whole import Config

logger = logging.getLogger(__name__)


def load_config(config: Mapping[str, Any], root: Path) -> tuple[Config, Tables]:
    """Validate a config mapping and the tables that it names.

    Parameters
    ----------
    config
        As read from YAML.
    root
        Folder that relative paths of tables start from.

    Raises
    ------
    ValueError
        That names the key's path, what was found there and what is allowed.
    """
    try:
        cfg = Config.model_validate(dict(config))
    except ValidationError as error:
        message = f"config: {explain(error, Config)}"
        raise ValueError(message) from None
    tables = Tables(
        corpora=read_table(root / cfg.corpora, CorpusRow),
        models=read_table(root / cfg.models, ModelRow),
        datasets=read_table(root / cfg.datasets, DatasetRow),
        methods=read_table(root / cfg.methods, MethodRow),
        expected=tuple(row for _, row in read_rows(root / cfg.expected, ExpectedRow))
        if cfg.expected
        else (),
    )
    _check_names(cfg, tables)
    _check_corpus(cfg, tables)
    _check_reference(cfg, tables)
    _check_datasets(cfg, tables)
    _check_fetched(cfg, tables, root)
    _check_required(cfg, tables)
    _check_methods(cfg, tables)
    return cfg, tables


def leave_out_missing(cfg: Config, tables: Tables) -> Config:
    """Leave out of the benchmark the methods whose packages are not installed, and say so.

    Raises
    ------
    ValueError
        Where a task is left without a method.
    """
    kept = []
    for name in cfg.benchmark.methods:
        package = tables.methods[name].requires
        if package and importlib.util.find_spec(package) is None:
            logger.warning(
                "benchmark.methods: %s is left out: it needs the package %s, which is not"
                " installed here (pip install -e '.[baselines]' has all but celltypist, snakemake"
                " --sdm conda has it too)",
                name,
                package,
            )
        else:
            kept.append(name)
    benchmark = cfg.benchmark.model_copy(update={"methods": tuple(kept)})
    cfg = cfg.model_copy(update={"benchmark": benchmark})
    _check_methods(cfg, tables)
    return cfg


def _check_names(cfg: Config, tables: Tables) -> None:
    """Stop where a name is in no row of its table."""
    rows = tables.datasets
    parts = [part for row in rows.values() for part in row.parts]
    origins = [m.init_from for m in tables.models.values() if m.init_from]
    used: list[tuple[str, Iterable[str], Iterable[str]]] = [
        ("corpus", [cfg.corpus], tables.corpora),
        ("qc_by_corpus", cfg.qc_by_corpus, tables.corpora),
        ("model", [cfg.model], tables.models),
        ("checkpoints", cfg.checkpoints, tables.models),
        (f"{cfg.datasets}: parts", parts, rows),
        ("index.reference", cfg.index.reference, {**tables.corpora, **rows}),
        ("generation.datasets", cfg.generation.datasets, rows),
        ("networks.datasets", cfg.networks.datasets, rows),
        ("index.queries", cfg.index.queries, rows),
        *((f"benchmark.{task}", names, rows) for task, names in cfg.benchmark.by_task.items()),
        ("benchmark.methods", cfg.benchmark.methods, tables.methods),
        (f"{cfg.expected}: dataset", [row.dataset for row in tables.expected], rows),
        (f"{cfg.expected}: method", [row.method for row in tables.expected], tables.methods),
        (f"{cfg.models}: corpus", [m.corpus for m in tables.models.values()], tables.corpora),
        (f"{cfg.models}: init_from", origins, tables.models),
    ]
    for key, found, allowed in used:
        unknown = sorted(set(found) - set(allowed))
        if unknown:
            message = (
                f"config: {key}: {', '.join(unknown)} is in no row of its table; "
                f"allowed: {', '.join(sorted(allowed))}"
            )
            raise ValueError(message)


def _check_corpus(cfg: Config, tables: Tables) -> None:
    """Stop where the model is trained on another corpus than the one that the report tells of."""
    corpus = tables.models[cfg.model].corpus
    if cfg.model not in cfg.checkpoints and corpus != cfg.corpus:
        message = (
            f"config: corpus: {cfg.corpus}, but {cfg.models} trains the model {cfg.model} on "
            f"{corpus}, and cells of the benchmark are looked for in what a model has seen: set "
            f"corpus: {corpus} (index.reference says what cells are mapped onto), or another model"
        )
        raise ValueError(message)


def _check_reference(cfg: Config, tables: Tables) -> None:
    """Stop where a name of the index's reference stands twice, or may mean two things."""
    reference = cfg.index.reference
    if repeated := sorted({name for name in reference if reference.count(name) > 1}):
        message = (
            f"config: index.reference: {', '.join(repeated)} stands there twice, and its cells "
            "would be there twice: name it once"
        )
        raise ValueError(message)
    sources = reference or (cfg.corpus,)
    twice = sorted({*sources} & {*tables.corpora} & {*tables.datasets})
    if twice:
        message = (
            f"config: index.reference (where it is empty, corpus): {', '.join(twice)} is both in "
            f"{cfg.corpora} and in {cfg.datasets}: rename one"
        )
        raise ValueError(message)


def _check_datasets(cfg: Config, tables: Tables) -> None:
    """Stop where the row of a data set lacks what its task needs."""
    for name in cfg.benchmark.annotation:
        if not tables.datasets[name].query:
            message = (
                f"config: benchmark.annotation: {cfg.datasets} names no query batches of {name}"
            )
            raise ValueError(message)
    for name in cfg.benchmark.multiomics:
        row = tables.datasets[name]
        if not any(tables.datasets[part].modalities for part in (name, *row.parts)):
            message = f"config: benchmark.multiomics: {cfg.datasets} names no modalities of {name}"
            raise ValueError(message)


def _check_fetched(cfg: Config, tables: Tables, root: Path) -> None:
    """Stop where files of data sets that are used are to be fetched by hand, and were not."""
    names = cfg.tested_datasets | (set(cfg.index.reference) & tables.datasets.keys())
    parts = {part for name in names for part in tables.datasets[name].parts or (name,)}
    rows = [tables.datasets[part] for part in sorted(parts)]
    absent = [row for row in rows if row.source and row.path and not (root / row.path).exists()]
    if absent:
        said = "; ".join(f"{row.dataset}: get {row.path} from {row.source}" for row in absent)
        message = f"config: {cfg.datasets}: {said}"
        raise ValueError(message)


def _check_required(cfg: Config, tables: Tables) -> None:
    """Stop where a method needs a package, and no rule has an environment for it."""
    for row in tables.methods.values():
        if row.requires and (row.rule != "baseline" or row.task == "perturbation"):
            message = (
                f"config: {cfg.methods}: {row.method} requires {row.requires}, and no rule runs "
                "it: only baselines of integration, annotation and multiomics may require a "
                f"package. Empty the cell, and have {row.requires} in envs/lock.txt"
            )
            raise ValueError(message)


def _check_methods(cfg: Config, tables: Tables) -> None:
    """Stop where a task has data sets and no method: there would be nothing to report."""
    for task, datasets in cfg.benchmark.by_task.items():
        # What is scored from the data alone is a ceiling of methods, and none of them.
        methods = [m for m in tables.methods.values() if m.task == task and m.rule != "score"]
        allowed = {row.method for row in methods}
        if datasets and allowed.isdisjoint(cfg.benchmark.methods):
            message = (
                f"config: benchmark.{task}: benchmark.methods has no method for "
                f"{', '.join(datasets)}. Methods of this task: {', '.join(sorted(allowed))}. Name "
                f"one, or leave the data sets out: benchmark: {{{task}: []}}"
            )
            raise ValueError(message)
