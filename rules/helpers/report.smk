# What the rules of the stage report ask: names, files and settings, by wildcards.
PAGES = {
    page: title
    for page, title, is_shown in (
        ("summary", "Summary", True),
        ("qc", "Quality control", True),
        # A model that was imported was not pretrained here.
        ("pretrain", "Pretraining", CFG.model not in CFG.checkpoints),
        ("integration", "Integration", BENCHMARKS["integration"]),
        ("annotation", "Annotation", BENCHMARKS["annotation"]),
        ("multiomics", "Several modalities", BENCHMARKS["multiomics"]),
        ("perturbation", "Perturbation", BENCHMARKS["perturbation"]),
        ("mapping", "Reference mapping", CFG.index.queries),
        ("generation", "Generation", CFG.generation.datasets),
        ("networks", "Gene networks", CFG.networks.datasets),
    )
    if is_shown
}


def get_runs(task, file):
    """A file of every run of a task's methods; what is scored from the data alone has none."""
    return expand(
        f"results/tasks/{task}/{{dataset}}/{{method}}/{{seed}}/{file}",
        dataset=BENCHMARKS[task],
        method=[m for m in get_benchmarked(task) if TABLES.methods[m].rule != "score"],
        seed=CFG.benchmark.seeds,
    )


def get_mappings(file):
    """A file of the mapping of every query."""
    return expand(
        f"results/index/{CFG.model}/{REFERENCE}/map/{{dataset}}/{file}",
        dataset=CFG.index.queries,
    )


def get_page_artefacts(wildcards):
    """Files that a page shows, by the names of the notebook's parameters."""
    overlap = f"results/shards/{CFG.corpus}/overlap.json"
    scores = "results/benchmark/scores.parquet"
    artefacts = {
        "qc": {"manifest": f"results/shards/{CFG.corpus}/manifest.json"},
        "pretrain": {
            "training": f"results/models/{CFG.model}/training.json",
            "metrics": f"results/models/{CFG.model}/metrics.jsonl",
        },
        "integration": {
            "scores": scores,
            "embeddings": get_runs("integration", "embedding.h5ad"),
            "overlap": overlap,
        },
        "annotation": {
            "scores": scores,
            "predictions": get_runs("annotation", "predictions.parquet"),
            "overlap": overlap,
        },
        "multiomics": {
            "scores": scores,
            "embeddings": get_runs("multiomics", "embedding.h5ad"),
            "prepared": expand(
                "results/datasets/{dataset}.h5ad", dataset=CFG.benchmark.multiomics
            ),
            "overlap": overlap,
        },
        "perturbation": {
            "scores": scores,
            "runs": get_runs("perturbation", "run.json"),
            "overlap": overlap,
        },
        "mapping": {
            "mappings": get_mappings("mapping.parquet"),
            "embeddings": get_mappings("embedding.h5ad"),
            "index": get_index_files(REFERENCE, CFG.model),
            "overlap": overlap,
        },
        "generation": {
            "generations": expand(
                "results/tasks/generation/{dataset}/scores.parquet",
                dataset=CFG.generation.datasets,
            ),
            "overlap": overlap,
        },
        "networks": {
            name: expand(
                f"results/networks/{{dataset}}/{table}.parquet",
                dataset=list(CFG.networks.datasets),
            )
            for name, table in (
                ("programs", "programs/scores"),
                ("networks", "validation/scores"),
                ("shifts", "edges/shifts"),
            )
        }
        | {"overlap": overlap},
    }
    if wildcards.notebook != "summary":
        return artefacts[wildcards.notebook]
    shown = ("manifest", "training", "scores", "mappings", "overlap")
    return {
        name: files
        for page in PAGES
        for name, files in artefacts.get(page, {}).items()
        if name in shown
    }


def get_task_parameters(task):
    """Rows of the methods of a task's benchmark, and what its data sets are."""
    return {
        "methods": {
            name: TABLES.methods[name].model_dump(mode="json")
            for name in get_benchmarked(task)
        },
        "datasets": {
            name: TABLES.datasets[name].description for name in BENCHMARKS[task]
        },
        "expected": [
            row.model_dump(mode="json")
            for row in TABLES.expected
            if row.task == task and row.dataset in BENCHMARKS[task]
        ],
    }


def get_page_parameters(wildcards):
    """What a notebook is told: its files, and the names and settings that it needs."""
    tasks = {task: get_task_parameters(task) for task in BENCHMARKS}
    settings = {
        "summary": {"tasks": tasks},
        **{
            task: {**told, "seed": CFG.benchmark.seeds[0]}
            for task, told in tasks.items()
        },
    }
    # A model that was imported was trained on cells that nobody knows here.
    imported = {"stand_in": CFG.corpus} if CFG.model in CFG.checkpoints else {}
    return {
        **get_page_artefacts(wildcards),
        **settings.get(wildcards.notebook, {}),
        **imported,
    }
