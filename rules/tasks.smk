# The data sets; their embedding by every method: simple baselines, zero-shot, fine-tuned; generation.
include: "helpers/tasks.smk"


rule download_dataset:
    output:
        "results/datasets/sources/{dataset}.h5ad",
    log:
        "results/logs/tasks/download_dataset_{dataset}.log",
    benchmark:
        "results/benchmarks/tasks/download_dataset_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(
            row.dataset
            for row in TABLES.datasets.values()
            if row.path and is_url(row.path)
        ),
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000),
        runtime=get_runtime(120),
        downloads=1,
    params:
        row=get_download,
    script:
        "../workflow_scripts/download_dataset.py"


rule prepare_dataset:
    input:
        file=get_dataset_file,
        cell_types=get_path("resources/cell_types.tsv"),
    output:
        "results/datasets/{dataset}.h5ad",
    log:
        "results/logs/tasks/prepare_dataset_{dataset}.log",
    benchmark:
        "results/benchmarks/tasks/prepare_dataset_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(row.dataset for row in TABLES.datasets.values() if row.path),
    group:
        "datasets"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_dataset_mem_mb(500, times=18, least=1500),
        runtime=get_runtime(60),
    params:
        get_code(
            "tasks/datasets", "tasks/modalities", "data/labels", "data/obs", "data/qc"
        ),
        row=get_dataset_row,
    script:
        "../workflow_scripts/prepare_dataset.py"


rule merge_datasets:
    input:
        get_parts,
    output:
        "results/datasets/{dataset}.h5ad",
    log:
        "results/logs/tasks/merge_datasets_{dataset}.log",
    benchmark:
        "results/benchmarks/tasks/merge_datasets_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(row.dataset for row in TABLES.datasets.values() if row.parts),
    group:
        "datasets"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_dataset_mem_mb(1000, times=25, least=2000),
        runtime=get_runtime(60),
    params:
        get_code("tasks/merging", "tasks/modalities", "data/genes"),
    script:
        "../workflow_scripts/merge_datasets.py"


rule baseline:
    input:
        "results/datasets/{dataset}.h5ad",
    output:
        embedding="results/tasks/integration/{dataset}/{method}/{seed}/embedding.h5ad",
        run="results/tasks/integration/{dataset}/{method}/{seed}/run.json",
    log:
        "results/logs/tasks/baseline_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/baseline_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("baseline"),
    group:
        "datasets"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_dataset_mem_mb(650, times=25, least=1500),
        runtime=get_runtime(120),
    params:
        get_code("baselines", "tasks/datasets"),
        method="{method}",
        seed="{seed}",
    script:
        "../workflow_scripts/baseline.py"


# The same for methods whose packages are not in the core lock: in an environment, and a job, of their own.
use rule baseline as extra_baseline with:
    log:
        "results/logs/tasks/extra_baseline_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/extra_baseline_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("baseline", extra=True),
    group:
        None
    conda:
        "../envs/baselines.yaml"
    resources:
        mem_mb=get_mem_mb(8000),
        runtime=get_runtime(120),


rule embed:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        model=get_model_files(CFG.model),
    output:
        embedding="results/tasks/integration/{dataset}/{method}/{seed}/embedding.h5ad",
        run="results/tasks/integration/{dataset}/{method}/{seed}/run.json",
    log:
        "results/logs/tasks/embed_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/embed_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("embed"),
    group:
        get_group("embed", CFG.embed.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(1200 + 15 * MODEL_MB),
        runtime=get_runtime(240),
        gpu=int(CFG.embed.device == "cuda"),
    params:
        get_compared(CFG.embed),
        model_folder=get_model_folder,
        init=get_init,
        seed="{seed}",
        embed=uncompared(CFG.embed.model_dump(mode="json")),
    script:
        "../workflow_scripts/embed.py"


# Checkpoints lie in results/state, which is no output: Snakemake deletes outputs before a retry.
rule finetune:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        model=get_model_files(CFG.model),
    output:
        embedding="results/tasks/integration/{dataset}/{method}/{seed}/embedding.h5ad",
        run="results/tasks/integration/{dataset}/{method}/{seed}/run.json",
        model=directory("results/tasks/integration/{dataset}/{method}/{seed}/model"),
    log:
        "results/logs/tasks/finetune_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/finetune_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("finetune"),
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        **get_launch_resources(CFG.integration.trainer),
        mem_mb=get_mem_mb(1400 + 30 * MODEL_MB),
        runtime=get_runtime(240),
    params:
        get_compared(CFG.integration),
        task="integration",
        model_folder=get_model_folder,
        folder="results/tasks/integration/{dataset}/{method}/{seed}",
        settings=uncompared(CFG.integration.model_dump_json()),
        more=[],
        init=get_init,
        seed="{seed}",
        state_folder="results/state/integration/{dataset}/{method}/{seed}",
        launcher=uncompared(LAUNCHER),
        script=uncompared(get_path("workflow_scripts/finetune.py")),
    shell:
        "{params.launcher:q} {resources.nodes} {resources.processes} {threads} "
        "{params.script:q} {params.task} {input.dataset:q} {params.model_folder:q} "
        "{params.folder:q} {params.state_folder:q} {log:q} --settings {params.settings:q} "
        "--init {params.init} --seed {params.seed} --threads {threads} {params.more:q}"


rule generate:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        model=get_model_files(CFG.model),
    output:
        scores="results/tasks/generation/{dataset}/scores.parquet",
        genes="results/tasks/generation/{dataset}/genes.parquet",
        run="results/tasks/generation/{dataset}/run.json",
    log:
        "results/logs/tasks/generate_{dataset}.log",
    benchmark:
        "results/benchmarks/tasks/generate_{dataset}.tsv"
    group:
        get_group("embed", CFG.generation.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(1400 + 30 * MODEL_MB),
        runtime=get_runtime(60),
        gpu=int(CFG.generation.device == "cuda"),
    params:
        get_code("tasks/generation", "tasks/generator", "tasks/profiles"),
        get_compared(CFG.generation),
        model_folder=get_model_folder,
        settings=uncompared(CFG.generation.model_dump(mode="json")),
        seed=CFG.seed,
    script:
        "../workflow_scripts/generate.py"
