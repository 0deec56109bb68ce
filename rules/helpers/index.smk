# What the rules of the stage index ask: names, files and settings, by wildcards.
from types import SimpleNamespace


def get_joined(wildcards):
    """The corpora of the reference: the one that it is named after, and those that join it."""
    return list(dict.fromkeys([wildcards.corpus, *CFG.index.join]))


def get_embeddings(wildcards):
    """Embeddings of all shards, in the order of the reference's cells."""
    return [
        f"results/index/{wildcards.model}/{corpus}/embeddings/shard_{i}.arrow"
        for corpus in get_joined(wildcards)
        for i in get_partitions(SimpleNamespace(corpus=corpus))
    ]


def get_corpora(wildcards):
    """Manifests of the corpora of the reference."""
    return [
        f"results/shards/{corpus}/manifest.json" for corpus in get_joined(wildcards)
    ]
