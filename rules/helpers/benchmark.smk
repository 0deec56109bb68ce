# What the rules of the stage benchmark ask: names, files and settings, by wildcards.
def get_scores(wildcards):
    """Scores of every run that the config asks for."""
    return expand(
        "results/benchmark/integration/{dataset}/{method}/{seed}.parquet",
        dataset=CFG.benchmark.integration,
        method=CFG.benchmark.methods,
        seed=CFG.benchmark.seeds,
    )
