# How well the methods did: every metric of every run, and one tidy table of all runs.
include: "helpers/benchmark.smk"


rule score:
    input:
        embedding="results/tasks/integration/{dataset}/{method}/{seed}/embedding.h5ad",
        unintegrated="results/tasks/integration/{dataset}/hvg_pca/{seed}/embedding.h5ad",
        dataset="results/datasets/{dataset}.h5ad",
        genes=get_path("resources/genesets/cell_cycle_genes_homo_sapiens.tsv"),
    output:
        "results/benchmark/integration/{dataset}/{method}/{seed}.parquet",
    log:
        "results/logs/benchmark/score_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/benchmark/score_{dataset}_{method}_{seed}.tsv"
    group:
        "report"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_dataset_mem_mb(600, times=25, least=1000),
        runtime=get_runtime(60),
    params:
        get_code("cell_cycle", "metrics", "neighbours", "scores"),
    script:
        "../workflow_scripts/score.py"


rule score_labels:
    input:
        "results/tasks/annotation/{dataset}/{method}/{seed}/predictions.parquet",
    output:
        "results/benchmark/annotation/{dataset}/{method}/{seed}.parquet",
    log:
        "results/logs/benchmark/score_labels_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/benchmark/score_labels_{dataset}_{method}_{seed}.tsv"
    group:
        "report"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000),
        runtime=get_runtime(30),
    params:
        get_code("label_metrics", "scores"),
    script:
        "../workflow_scripts/score_labels.py"


rule score_modalities:
    input:
        embedding="results/tasks/multiomics/{dataset}/{method}/{seed}/embedding.h5ad",
        unintegrated="results/tasks/multiomics/{dataset}/rna_pca/{seed}/embedding.h5ad",
        dataset="results/datasets/{dataset}.h5ad",
    output:
        "results/benchmark/multiomics/{dataset}/{method}/{seed}.parquet",
    log:
        "results/logs/benchmark/score_modalities_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/benchmark/score_modalities_{dataset}_{method}_{seed}.tsv"
    group:
        "report"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000),
        runtime=get_runtime(60),
    params:
        get_code(
            "imputation_metrics",
            "metrics",
            "neighbours",
            "scores",
            "tasks/modalities",
            "tasks/mosaic",
        ),
    script:
        "../workflow_scripts/score_modalities.py"


rule score_perturbations:
    input:
        unpack(get_predictions),
        dataset="results/datasets/{dataset}.h5ad",
        split="results/tasks/perturbation/{dataset}/split_{seed}.json",
    output:
        "results/benchmark/perturbation/{dataset}/{method}/{seed}.parquet",
    log:
        "results/logs/benchmark/score_perturbations_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/benchmark/score_perturbations_{dataset}_{method}_{seed}.tsv"
    group:
        "report"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(60),
    params:
        get_code("perturbation"),
        focus=CFG.perturbation.split.model_dump(mode="json")["focus"],
    script:
        "../workflow_scripts/score_perturbations.py"


rule collect_scores:
    input:
        get_scores,
    output:
        parquet="results/benchmark/scores.parquet",
        tsv="results/benchmark/scores.tsv",
        summary="results/benchmark/summary.tsv",
        text="results/benchmark/scores.txt",
        definitions="results/benchmark/metrics.tsv",
    log:
        "results/logs/benchmark/collect_scores.log",
    benchmark:
        "results/benchmarks/benchmark/collect_scores.tsv"
    group:
        "report"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000),
        runtime=get_runtime(10),
    params:
        get_code("scores"),
        titles={name: TABLES.methods[name].title for name in CFG.benchmark.methods},
    script:
        "../workflow_scripts/collect_scores.py"


rule benchmark:
    input:
        rules.collect_scores.output,
