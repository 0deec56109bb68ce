# What the rules of the stage census ask: names, files and settings, by wildcards.
from functools import cache


from scgpt_core.config import SourceRow, read_rows


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


def get_query_mem_mb(wildcards, attempt):
    """Memory to read which cells there are: a hosted Census lists all of its cells."""
    return attempt * (1000 if get_local_census(wildcards) else 16000)


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
    rows = read_rows(Path(get_census_table(wildcards)), SourceRow)
    return sorted({get_path(row.path) for _, row in rows})


def get_organism(wildcards):
    """The corpus's organism, as the Census spells it."""
    return get_corpus(wildcards).organism


def get_obs_value_filter(wildcards):
    """The corpus's filter, in the Census's language."""
    return get_corpus(wildcards).obs_value_filter


def get_partition_mem_mb():
    """For a job on one partition, which holds its obs and blocks of its counts."""
    return get_mem_mb(1500 + CFG.census.partition_cells // 20)


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
