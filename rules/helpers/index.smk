# What the rules of the stage index ask: names, files and settings, by wildcards.
def get_embeddings(wildcards):
    """Embeddings of all shards, in the order of the corpus's cells."""
    return [
        f"results/index/{wildcards.model}/{wildcards.corpus}/embeddings/shard_{i}.arrow"
        for i in get_partitions(wildcards)
    ]
