# What the rules of the stage index ask: names, files and settings, by wildcards.
from types import SimpleNamespace

SOURCES = CFG.index.reference or (CFG.corpus,)
"""What the reference is made of: corpora, and data sets of one's own."""
REFERENCE = "+".join(SOURCES)


def get_reference_names(*ways):
    """Names of references that are combined in one of these ways, as a regular expression."""
    one = "|".join(SOURCES)
    several = rf"({one})(\+({one}))+" if CFG.index.combine in ways else get_names(())
    return f"{one}|{several}" if "build" in ways else several


def get_embeddings(wildcards):
    """Embeddings of the reference's cells, in their order.

    Known once all corpora have been queried, also for an index of data sets alone: the groups
    `reference` and `index` are planned at once then (the cluster profile tells why).
    """
    partitions = {
        source: (
            get_partitions(SimpleNamespace(corpus=source))
            if source in TABLES.corpora
            else [0]
        )
        for source in SOURCES
    }
    return [
        f"results/index/{wildcards.model}/{source}/embeddings/shard_{i}.arrow"
        for source in wildcards.reference.split("+")
        for i in partitions[source]
    ]


def get_sources(wildcards):
    """Counts and labels of the reference's cells: of corpora and of data sets."""
    return [
        (
            f"results/shards/{source}/manifest.json"
            if source in TABLES.corpora
            else f"results/datasets/{source}.h5ad"
        )
        for source in wildcards.reference.split("+")
    ]


def get_index_files(reference, model="{model}"):
    """What a reference consists of, its manifest first."""
    return [
        f"results/index/{model}/{reference}/{file}"
        for file in ("manifest.json", "index.faiss", "labels.arrow", "sample.arrow")
    ]


def get_like(wildcards):
    """The index whose lists and codes are taken, where indexes are to be merged."""
    like = CFG.index.combine == "merge" and wildcards.reference != SOURCES[0]
    return get_index_files(SOURCES[0], wildcards.model) if like else []


def get_first(wildcards):
    """The index that the cells of the last source are added to."""
    return get_index_files(wildcards.reference.rpartition("+")[0], wildcards.model)


def get_parts(wildcards):
    """The indexes that are merged."""
    parts = wildcards.reference.split("+")
    return [file for part in parts for file in get_index_files(part, wildcards.model)]


def get_size_mb(files):
    """Size of files; unknown to Snakemake, which asks again, until they are there."""
    return sum(Path(file).stat().st_size for file in files) / 1e6


def get_index_mem_mb(wildcards, input, attempt):
    """Memory for an index: a tenth of the embeddings, and twice the indexes that it begins with."""
    # Before the query of a corpus its embeddings are one name that stands for those to come.
    embeddings = [file for file in input if "/embeddings/" in file]
    begun = [file for file in input if file.endswith("index.faiss")]
    added_mb = get_size_mb(embeddings) / 10  # 8 GB for 33 M cells of width 512
    return attempt * round(1000 + added_mb + 2 * get_size_mb(begun))
