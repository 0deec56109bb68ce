"""Rows of the tables beside `config/config.yaml`, and how these are read."""

import csv
import difflib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from scgpt_core.config.base import Name, Settings, Task


def _words(text: str) -> list[str]:
    """Words of a table's cell, which blanks separate but between double quotes.

    An apostrophe or a backslash is a character of a name: ``10x_3' "10x 3' v2"`` are two.
    """
    words = shlex.shlex(text, posix=True)
    words.whitespace_split = True
    words.quotes, words.escape, words.commenters = '"', "", ""
    return list(words)


def _split(names: object) -> object:
    """Names of a table's cell."""
    return tuple(_words(names)) if isinstance(names, str) else names


def _split_pairs(pairs: object) -> object:
    """Pairs `NAME=VALUE` of a table's cell."""
    if not isinstance(pairs, str):
        return pairs
    split = [pair.partition("=") for pair in _words(pairs)]
    return {name: value for name, _, value in split}


def _check_modalities(places: Mapping[str, str]) -> Mapping[str, str]:
    unknown = sorted(places.keys() - {"protein", "atac"})
    if unknown or not all(places.values()):
        message = f"{', '.join(unknown) or 'a place is empty'}: give protein=KEY, atac=KEY or both"
        raise ValueError(message)
    return places


class CorpusRow(Settings):
    """A row of corpora.tsv."""

    corpus: Name
    census: str
    """A Census release (a date, "stable", "latest"), the path of a local SOMA collection, or a
    table (.tsv) of h5ad files, of which a local Census is made."""
    organism: str
    """As the Census spells it: homo_sapiens."""
    obs_value_filter: str
    """Which cells, in the Census's filter language."""
    description: str = ""


class SourceRow(Settings):
    """A row of a table of h5ad files that make a local Census, as resources/demo_census.tsv.

    What describes the cells is the same for all of them, or ``obs:NAME``: as column NAME says.
    """

    dataset_id: Name
    """Of the data set in the Census; a study of one file a sample has a row for each of them, with
    the same title and citation."""
    path: str
    """h5ad with raw counts, relative to the repository or absolute."""
    layer: str | None = None
    """Where the raw counts are: a layer, or "raw" for ``adata.raw``; empty: X."""
    cells: str | None = None
    """pandas query on obs that keeps cells; empty: all."""
    primary: str | None = None
    """pandas query on obs: the cells whose primary copy this is (`is_primary_data`); empty: all."""
    assay: str
    """As the Census spells it."""
    donor_id: str
    """Donor; unique in its data set."""
    suspension_type: str
    """cell, nucleus or na."""
    tissue_general: str
    """As the Census spells it."""
    disease: str
    """As the Census spells it; normal for healthy donors."""
    cell_type: str = "unknown"
    """Label by an expert; harmonised by resources/cell_types.tsv."""
    title: str = ""
    """Of the data set."""
    citation: str = ""
    """Of the data set."""


class ModelRow(Settings):
    """A row of models.tsv."""

    model: Name
    corpus: Name
    """The corpus that it is trained on."""
    init_from: Name | None = None
    """The model whose weights training starts from (continual pretraining)."""
    description: str = ""


class DatasetRow(Settings):
    """A row of datasets.tsv: a file of cells, or other rows of the table merged."""

    dataset: Name
    path: str | None = None
    """h5ad, relative to the repository or absolute, or a URL."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the file; needed for a URL."""
    layer: str | None = None
    """Where the raw counts are: a layer, or "raw" for ``adata.raw``; empty: X."""
    batch_key: str | None = None
    """obs column of the batch; empty: all cells are of one."""
    label_key: str | None = None
    """obs column of the cell type; empty: all are unknown."""
    obs_filter: str | None = None
    """pandas query on obs that keeps cells, as `demuxlet_cls == "SNG"`."""
    modalities: Annotated[
        Mapping[str, str], BeforeValidator(_split_pairs), AfterValidator(_check_modalities)
    ] = Field(default_factory=dict)
    """What is measured beside RNA and where, as `protein=KEY`: a key of obsm, whose features are
    named by its columns or in uns["protein_names"], or the name of a modality of an .h5mu."""
    obs_columns: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """More obs columns to keep, text: of a reference, or the conditions of a screen."""
    parts: Annotated[tuple[Name, ...], BeforeValidator(_split)] = ()
    """Instead of a path: rows whose cells are merged over their common genes, each a batch."""
    query: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Batches that annotation gives labels to, as learned from the cells of the others; and whose
    other modalities are imputed from RNA."""
    source: str = ""
    """Page where the file is to be had by hand, where `path` is not one that can be downloaded."""
    description: str = ""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.path is None) == (not self.parts):
            message = f"data set {self.dataset} needs a path or parts, and not both"
            raise ValueError(message)
        return self


class MethodRow(Settings):
    """A row of methods.tsv."""

    method: Name
    task: Task
    """What it is a method of."""
    rule: Literal["baseline", "embed", "finetune", "score"]
    """The rule that runs it; score: it is scored from the data alone."""
    init: Literal["pretrained", "random"] | None = None
    """Weights that a model starts from (embed and finetune)."""
    uses_labels: bool = False
    """Whether it sees the cell types that it is scored on."""
    requires: str | None = None
    """Package that it imports beyond the core lock; where it is not installed, `leave_out_missing`
    leaves the method out."""
    title: str
    """Its name in plots and tables."""


_PUBLISHED: Final[Mapping[Task, tuple[str, ...]]] = {
    "integration": ("avg_bio", "avg_batch", "overall"),
    "annotation": ("accuracy", "macro_f1"),
    "multiomics": ("avg_bio", "avg_batch", "overall", "pearson"),
    "perturbation": ("pearson_delta",),
}
"""Metrics of which published values may stand beside ours."""


class ExpectedRow(Settings):
    """A row of expected.tsv: a value that somebody published, to stand beside ours."""

    task: Task
    dataset: Name
    """A row of datasets.tsv."""
    method: Name
    """The row of methods.tsv that it is to be compared with."""
    metric: str
    value: float
    source: str
    """Where it was published."""

    @model_validator(mode="after")
    def _metric_is_of_task(self) -> Self:
        if self.metric not in _PUBLISHED[self.task]:
            message = (
                f"metric {self.metric} is none of {self.task}: {', '.join(_PUBLISHED[self.task])}"
            )
            raise ValueError(message)
        return self


class Tables(Settings):
    """The four tables, by name, and published values."""

    corpora: dict[str, CorpusRow]
    models: dict[str, ModelRow]
    datasets: dict[str, DatasetRow]
    methods: dict[str, MethodRow]
    expected: tuple[ExpectedRow, ...] = ()


Row = TypeVar("Row", bound=Settings)


def read_table(path: Path, row: type[Row]) -> dict[str, Row]:
    """Rows of a tab-separated table by the value of their first column, see `read_rows`.

    Raises
    ------
    ValueError
        As `read_rows`, and where a name stands twice.
    """
    rows: dict[str, Row] = {}
    for line, parsed in read_rows(path, row):
        name = str(next(iter(parsed.model_dump().values())))
        if name in rows:
            message = f"{path}, line {line}: {name!r} stands there twice"
            raise ValueError(message)
        rows[name] = parsed
    return rows


def read_rows(path: Path, row: type[Row]) -> list[tuple[int, Row]]:
    """Rows of a tab-separated table with the numbers of their lines; empty cells are left out.

    Quotes are characters of a cell, as filters and names with blanks have them. But a cell that a
    spreadsheet or pandas has put between quotes, with its own quotes doubled, is as it was before;
    of cells that are no lists of names, also one that was quoted for its commas.

    Raises
    ------
    ValueError
        With file, line and column, where a row does not fit.
    """
    if not path.is_file():
        message = f"table {path} does not exist: put it there, or correct the path that names it"
        raise ValueError(message)
    fields = row.model_fields.items()
    listed = {name for name, field in fields if get_origin(field.annotation) in {tuple, Mapping}}
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark first
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for record in reader:
            line = reader.line_num
            if None in record or None in record.values():
                message = f"{path}, line {line}: not as many columns as the header has"
                raise ValueError(message)
            filled = {
                key: _unquote(value, listed=key in listed) for key, value in record.items() if value
            }
            try:
                parsed = row.model_validate(filled)
            except ValidationError as error:
                message = f"{path}, line {line}: {explain(error, row)}"
                raise ValueError(message) from None
            rows.append((line, parsed))
    return rows


def _unquote(cell: str, *, listed: bool) -> str:
    inner = cell[1:-1]
    written = cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    quotes_itself = '""' in inner or not listed
    return inner.replace('""', '"') if written and quotes_itself else cell


def explain(error: ValidationError, settings: type[Settings]) -> str:
    """One line of what is wrong with settings: path of each key, what is due, what was found."""
    lines = []
    for problem in error.errors():
        said, found, allowed = problem["msg"], "", ""
        if problem["type"] != "missing":
            value = problem["input"]
            of_section = isinstance(value, Mapping)
            shown = f"the keys {', '.join(map(str, value))}" if of_section else repr(value)
            found = f" (found {shown})"
        if problem["type"] == "extra_forbidden":
            *above, key = problem["loc"]
            keys = _keys_at(settings, above)
            nearest = difflib.get_close_matches(str(key), keys, n=1)
            perhaps = f" Perhaps {nearest[0]}?" if nearest else ""
            said, allowed = "no such key", f".{perhaps} Allowed: {', '.join(keys)}"
        lines.append(f"{'.'.join(map(str, problem['loc']))}: {said}{found}{allowed}")
    return "; ".join(lines)


def _keys_at(section: Any, path: Iterable[str | int]) -> list[str]:
    """Keys of the section that a path leads to, through sections and mappings of them."""
    for key in path:
        fields = getattr(section, "model_fields", None)
        section = fields[key].annotation if fields else get_args(section)[1]
    return list(section.model_fields)
