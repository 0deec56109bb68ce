# What the rules of the stage shards ask: names, files and settings, by wildcards.
def get_partition_files(wildcards):
    """All partitions of the corpus, with their digests."""
    names = [
        f"results/census/{wildcards.corpus}/partition_{i}.h5ad"
        for i in get_partitions(wildcards)
    ]
    return {"partitions": names, "sha256": [f"{name}.sha256" for name in names]}


def get_shards(wildcards):
    """All shards of the corpus, in the order of its cells."""
    return [
        f"results/shards/{wildcards.corpus}/shard_{i}.arrow"
        for i in get_partitions(wildcards)
    ]


def get_published_vocab():
    """The vocabulary to take instead of the corpus's own genes."""
    return [get_path(CFG.shards.published_vocab)] if CFG.shards.published_vocab else []


def get_tested_datasets():
    """The data sets that models of the corpus are tested on, prepared."""
    return [f"results/datasets/{name}.h5ad" for name in sorted(CFG.tested_datasets)]


def get_qc(wildcards):
    """The thresholds of the corpus."""
    return CFG.qc_of(wildcards.corpus).model_dump(mode="json")
