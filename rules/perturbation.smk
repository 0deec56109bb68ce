# Cells under perturbations that a method has not seen, by every method, fold by fold.
include: "helpers/perturbation.smk"


rule split_perturbations:
    input:
        "results/datasets/{dataset}.h5ad",
    output:
        "results/tasks/perturbation/{dataset}/split_{seed}.json",
    log:
        "results/logs/tasks/split_perturbations_{dataset}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/split_perturbations_{dataset}_{seed}.tsv"
    group:
        "datasets"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(10),
    params:
        get_code("perturbation/data", "perturbation/splits", "tasks/datasets"),
        settings=CFG.perturbation.split.model_dump(mode="json"),
        n_genes=CFG.perturbation.n_genes,
        seed="{seed}",
    script:
        "../workflow_scripts/split_perturbations.py"


rule shift:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        split="results/tasks/perturbation/{dataset}/split_{seed}.json",
        gene_sets=get_path(CFG.perturbation.gene_sets),
    output:
        cells="results/tasks/perturbation/{dataset}/{method}/{seed}/predictions.h5ad",
        ranks="results/tasks/perturbation/{dataset}/{method}/{seed}/reverse.parquet",
        run_json="results/tasks/perturbation/{dataset}/{method}/{seed}/run.json",
    log:
        "results/logs/tasks/shift_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/shift_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("baseline", task="perturbation"),
    group:
        "datasets"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(60),
    params:
        get_code(
            "networks/gene_sets",
            "perturbation/baselines",
            "perturbation/data",
            "perturbation/features",
            "perturbation/predictions",
            "perturbation/reverse",
            "perturbation/splits",
        ),
        method="{method}",
        settings=CFG.perturbation.model_dump(
            mode="json", exclude={"trainer", "split", "n_genes"}
        ),
        seed="{seed}",
    script:
        "../workflow_scripts/shift.py"


use rule finetune as perturb with:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        model=get_model_files(CFG.model),
        split="results/tasks/perturbation/{dataset}/split_{seed}.json",
        gene_sets=get_path(CFG.perturbation.gene_sets),
    output:
        cells="results/tasks/perturbation/{dataset}/{method}/{seed}/predictions.h5ad",
        ranks="results/tasks/perturbation/{dataset}/{method}/{seed}/reverse.parquet",
        run="results/tasks/perturbation/{dataset}/{method}/{seed}/run.json",
        models=directory("results/tasks/perturbation/{dataset}/{method}/{seed}/models"),
    log:
        "results/logs/tasks/perturb_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/perturb_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("finetune", task="perturbation"),
    resources:
        **get_launch_resources(CFG.perturbation.trainer),
        mem_mb=get_mem_mb(2400 + 30 * MODEL_MB),
        runtime=get_runtime(480),
    params:
        get_compared(CFG.perturbation),
        task="perturbation",
        model_folder=get_model_folder,
        folder="results/tasks/perturbation/{dataset}/{method}/{seed}",
        settings=uncompared(CFG.perturbation.model_dump_json()),
        more=get_perturbation_options,
        init=get_init,
        seed="{seed}",
        state_folder="results/state/perturbation/{dataset}/{method}/{seed}",
        launcher=uncompared(LAUNCHER),
        script=uncompared(get_path("workflow_scripts/finetune.py")),
