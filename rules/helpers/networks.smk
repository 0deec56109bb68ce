# What the rules of the stage networks ask: names, files and settings, by wildcards.
PROGRAM_SETTINGS = {"programs", "min_matched", "device"}
"""Keys of `networks` that programs depend on: a change of the others finds none anew."""


def get_network_tables(part, *names):
    """Tables of a part of a data set's network, by their names."""
    return {
        name: f"results/networks/{{dataset}}/{part}/{name}.parquet" for name in names
    }
