# What the rules of the stage tasks ask: names, files and settings, by wildcards.
from types import SimpleNamespace


def get_dataset_row(wildcards):
    """The row of datasets.tsv as plain values, but for what other rules, or people, read."""
    return TABLES.datasets[wildcards.dataset].model_dump(
        mode="json", exclude={"query", "source", "description"}
    )


def get_download(wildcards):
    """Of that row what a file is fetched and verified by."""
    return TABLES.datasets[wildcards.dataset].model_dump(
        mode="json", include={"dataset", "path", "sha256"}
    )


def get_query(wildcards):
    """The batches that are given labels (annotation), or RNA alone (multi-omics)."""
    return list(TABLES.datasets[wildcards.dataset].query)


def get_query_option(wildcards):
    """The same, as finetune.py reads it."""
    query = get_query(wildcards)
    return ["--query", *query] if query else []


def is_url(path):
    """Whether a path of a table is one of the network."""
    return "://" in path


def get_dataset_file(wildcards):
    """The data set's source: a file, or what is downloaded."""
    path = TABLES.datasets[wildcards.dataset].path
    downloaded = f"results/datasets/sources/{wildcards.dataset}.h5ad"
    return downloaded if is_url(path) else get_path(path)


def get_source_mb(dataset):
    """Size of the files that a data set is made of; 0 of one that is to be downloaded yet."""
    row = TABLES.datasets[dataset]
    if row.parts:
        return sum(map(get_source_mb, row.parts))
    file = Path(get_dataset_file(SimpleNamespace(dataset=dataset)))
    return file.stat().st_size / 1e6 if file.exists() else 0


def get_dataset_mem_mb(megabytes, *, times, least):
    """A memory request that grows with every attempt, and with the files that a data set is made of.

    Not with the job's input: jobs of a group that read what others of it make would ask for nothing.
    """

    def mem_mb(wildcards, attempt):
        grown = megabytes + round(times * get_source_mb(wildcards.dataset))
        return max(least, grown) * attempt

    return mem_mb


def get_init(wildcards):
    """Weights that a method starts from."""
    return TABLES.methods[wildcards.method].init


def get_parts(wildcards):
    """The prepared data sets that a merged one is made of."""
    parts = TABLES.datasets[wildcards.dataset].parts
    return [f"results/datasets/{part}.h5ad" for part in parts]
