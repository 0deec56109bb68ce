# What the rules of the stage benchmark ask: names, files and settings, by wildcards.
def get_scores(wildcards):
    """Scores of every run that the config asks for."""
    return [
        path
        for task, names in BENCHMARKS.items()
        for path in expand(
            "results/benchmark/{task}/{dataset}/{method}/{seed}.parquet",
            task=task,
            dataset=names,
            method=get_benchmarked(task),
            seed=CFG.benchmark.seeds,
        )
    ]
