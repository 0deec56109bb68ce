# What the rules of the stage tasks ask: names, files and settings, by wildcards.
def get_dataset_row(wildcards):
    """The row of datasets.tsv as plain values."""
    return TABLES.datasets[wildcards.dataset].model_dump(mode="json")


def get_dataset_source(wildcards):
    """Where the data set comes from: a path or a URL."""
    return get_path(TABLES.datasets[wildcards.dataset].path)


def get_dataset_file(wildcards):
    """The data set's source as an input file; nothing for a URL."""
    source = get_dataset_source(wildcards)
    return [] if "://" in source else [source]


def get_init(wildcards):
    """Weights that a method starts from."""
    return TABLES.methods[wildcards.method].init


def get_parts(wildcards):
    """The prepared data sets that a merged one is made of."""
    parts = TABLES.datasets[wildcards.dataset].parts
    return [f"results/datasets/{part}.h5ad" for part in parts]
