# What the rules of the stage networks ask: names, files and settings, by wildcards.
ATTENTION = {"attention": "pretrained", "attention_random": "random"}
"""Weights that the networks of attention are read from, by the network's name."""
NETWORKS = [*ATTENTION, "knockout", "pearson", "spearman", "trees"]
"""Every way to a network."""
NETWORK_SETTINGS = uncompared(CFG.networks.model_dump(mode="json"))
"""All settings of `networks`; a rule compares those that it depends on."""


def get_network_tables(part, *names):
    """Tables of a part of a data set's network, by their names."""
    return {
        name: f"results/networks/{{dataset}}/{part}/{name}.parquet" for name in names
    }


def get_contrast(wildcards):
    """Cells and conditions of a data set's network."""
    return CFG.networks.datasets[wildcards.dataset].model_dump(mode="json")


def get_attention_init(wildcards):
    """Weights that a network of attention is read from."""
    return ATTENTION[wildcards.network]


def get_network_code(*modules):
    """Digests of modules of the networks, with those that all of them use."""
    shared = ("cells", "edges", "gene_sets", "preparation")
    return get_code(*(f"networks/{name}" for name in (*shared, *modules)))
