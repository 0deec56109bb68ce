# Cells of a corpus: which ones (query_census), and their counts, partition by partition.
from functools import cache

from scgpt_core.config import SourceRow, read_table
from scgpt_core.data.cell_list import count_partitions, read_origin

# Downloads that run at once, over all jobs; `--resources downloads=N` goes before.
if "downloads" not in workflow.global_resources:
    workflow.register_resource("downloads", CFG.census.max_concurrent)


def get_corpus(wildcards):
    """The row of corpora.tsv of the corpus."""
    return TABLES.corpora[wildcards.corpus]


def is_path(census):
    """Whether a Census is a path of this machine: not a release, not a URL."""
    return Path(census).name != census and "://" not in census


def get_census(wildcards):
    """A release of the hosted Census, or the path of a local one."""
    census = get_corpus(wildcards).census
    if census.endswith(".tsv"):
        return f"results/census/{Path(census).stem}_soma"
    return get_path(census) if is_path(census) else census


def get_local_census(wildcards):
    """The local Census that the corpus is asked of, as input; nothing for a hosted one."""
    census = get_census(wildcards)
    return [census] if is_path(census) else []


def get_root(wildcards):
    """Where relative paths of tables start."""
    return str(ROOT)


def get_census_tables():
    """Tables of h5ad files by the name of the local Census that is made of them."""
    corpora = TABLES.corpora.values()
    tables = {row.census for row in corpora if row.census.endswith(".tsv")}
    names = {Path(table).stem: get_path(table) for table in tables}
    if len(names) < len(tables):
        raise ValueError(f"tables of one name make one Census: rename one of {tables}")
    return names


def get_census_table(wildcards):
    """The table of a local Census."""
    return get_census_tables()[wildcards.table]


def get_census_sources(wildcards):
    """The h5ad files of a local Census."""
    rows = read_table(Path(get_census_table(wildcards)), SourceRow)
    return sorted({get_path(row.path) for row in rows.values()})


def get_organism(wildcards):
    """The corpus's organism, as the Census spells it."""
    return get_corpus(wildcards).organism


def get_obs_value_filter(wildcards):
    """The corpus's filter, in the Census's language."""
    return get_corpus(wildcards).obs_value_filter


@cache
def read_cells_digest(cells, modified):
    """What tells the cells of a corpus from those of another one; read once after each change."""
    return read_origin(cells)["digest"]


def get_cells_digest(wildcards):
    """Of the corpus's cells: a query that finds the same cells again makes no partition stale."""
    cells = Path(checkpoints.query_census.get(corpus=wildcards.corpus).output.cells)
    return read_cells_digest(cells, cells.stat().st_mtime_ns)


def get_partitions(wildcards):
    """Numbers of the corpus's partitions, once its cells are known."""
    return range(
        count_partitions(
            checkpoints.query_census.get(corpus=wildcards.corpus).output.cells
        )
    )


rule build_census:
    input:
        table=get_census_table,
        sources=get_census_sources,
        cell_types=get_path("resources/cell_types.tsv"),
    output:
        directory("results/census/{table}_soma"),
    log:
        "results/logs/census/build_census_{table}.log",
    benchmark:
        "results/benchmarks/census/build_census_{table}.tsv"
    wildcard_constraints:
        table="|".join(get_census_tables()),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(4000),
        runtime=get_runtime(30),
    params:
        root=get_root,
    script:
        "../workflow_scripts/build_census.py"


checkpoint query_census:
    input:
        get_local_census,
    output:
        cells="results/census/{corpus}/cells.parquet",
    log:
        "results/logs/census/query_census_{corpus}.log",
    benchmark:
        "results/benchmarks/census/query_census_{corpus}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=get_mem_mb(8000),
        runtime=get_runtime(120),
        downloads=1,
    params:
        census=get_census,
        organism=get_organism,
        obs_value_filter=get_obs_value_filter,
        partition_cells=CFG.census.partition_cells,
        attempts=CFG.census.attempts,
        tiledb=CFG.census.tiledb,
    script:
        "../workflow_scripts/query_census.py"


rule download_partition:
    input:
        census=ancient(get_local_census),
        cells=ancient("results/census/{corpus}/cells.parquet"),
    output:
        counts="results/census/{corpus}/partition_{partition}.h5ad",
        sha256="results/census/{corpus}/partition_{partition}.h5ad.sha256",
    log:
        "results/logs/census/download_partition_{corpus}_{partition}.log",
    benchmark:
        "results/benchmarks/census/download_partition_{corpus}_{partition}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(4000),
        runtime=get_runtime(120),
        downloads=1,
    params:
        partition="{partition}",
        cells_digest=get_cells_digest,
        attempts=CFG.census.attempts,
        tiledb=CFG.census.tiledb,
    script:
        "../workflow_scripts/download_partition.py"
