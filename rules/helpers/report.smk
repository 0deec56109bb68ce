# What the rules of the stage report ask: names, files and settings, by wildcards.
PAGES = {
    "summary": "Summary",
    "qc": "Quality control",
    "pretrain": "Pretraining",
    "integration": "Integration",
    "annotation": "Annotation",
    "multiomics": "Several modalities",
    "perturbation": "Perturbation",
    "mapping": "Reference mapping",
    "generation": "Generation",
    "networks": "Gene networks",
}


if CFG.model in CFG.checkpoints:  # a model that was imported was not pretrained here
    del PAGES["pretrain"]


if not CFG.benchmark.integration:
    del PAGES["integration"]


if not CFG.benchmark.annotation:
    del PAGES["annotation"]


if not CFG.benchmark.multiomics:
    del PAGES["multiomics"]


if not CFG.benchmark.perturbation:
    del PAGES["perturbation"]


if not CFG.index.queries:
    del PAGES["mapping"]


if not CFG.generation.datasets:
    del PAGES["generation"]


if not CFG.networks.datasets:
    del PAGES["networks"]


def get_page_artefacts(wildcards):
    """Files that a page shows, by the names of the notebook's parameters."""
    overlap = f"results/shards/{CFG.corpus}/overlap.json"
    artefacts = {
        "qc": {"manifest": f"results/shards/{CFG.corpus}/manifest.json"},
        "pretrain": {
            "training": f"results/models/{CFG.model}/training.json",
            "metrics": f"results/models/{CFG.model}/metrics.jsonl",
        },
        "integration": {
            "scores": "results/benchmark/scores.parquet",
            "embeddings": expand(
                "results/tasks/integration/{dataset}/{method}/{seed}/embedding.h5ad",
                dataset=CFG.benchmark.integration,
                method=get_benchmarked("integration"),
                seed=CFG.benchmark.seeds,
            ),
            "overlap": overlap,
        },
        "annotation": {
            "scores": "results/benchmark/scores.parquet",
            "predictions": expand(
                "results/tasks/annotation/{dataset}/{method}/{seed}/predictions.parquet",
                dataset=CFG.benchmark.annotation,
                method=get_benchmarked("annotation"),
                seed=CFG.benchmark.seeds,
            ),
            "overlap": overlap,
        },
        "multiomics": {
            "scores": "results/benchmark/scores.parquet",
            "embeddings": expand(
                "results/tasks/multiomics/{dataset}/{method}/{seed}/embedding.h5ad",
                dataset=CFG.benchmark.multiomics,
                method=get_benchmarked("multiomics"),
                seed=CFG.benchmark.seeds,
            ),
            "prepared": expand(
                "results/datasets/{dataset}.h5ad", dataset=CFG.benchmark.multiomics
            ),
            "overlap": overlap,
        },
        "perturbation": {
            "scores": "results/benchmark/scores.parquet",
            "runs": expand(
                "results/tasks/perturbation/{dataset}/{method}/{seed}/run.json",
                dataset=CFG.benchmark.perturbation,
                method=[
                    name
                    for name in get_benchmarked("perturbation")
                    if TABLES.methods[name].rule != "score"
                ],
                seed=CFG.benchmark.seeds,
            ),
            "overlap": overlap,
        },
        "mapping": {
            "mappings": expand(
                "results/index/{model}/{reference}/map/{dataset}/mapping.parquet",
                model=CFG.model,
                reference=REFERENCE,
                dataset=CFG.index.queries,
            ),
            "embeddings": expand(
                "results/index/{model}/{reference}/map/{dataset}/embedding.h5ad",
                model=CFG.model,
                reference=REFERENCE,
                dataset=CFG.index.queries,
            ),
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
    return get_page_artefacts(wildcards) | settings.get(wildcards.notebook, {})
