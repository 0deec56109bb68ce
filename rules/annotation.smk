# Labels of a data set's query, learned from its other batches by every method.


rule classify:
    input:
        "results/datasets/{dataset}.h5ad",
    output:
        predictions="results/tasks/annotation/{dataset}/{method}/{seed}/predictions.parquet",
        run="results/tasks/annotation/{dataset}/{method}/{seed}/run.json",
    log:
        "results/logs/tasks/classify_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/classify_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("baseline", task="annotation"),
    group:
        "datasets"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(120),
    params:
        get_code("classifiers", "tasks/datasets", "tasks/labelling"),
        method="{method}",
        query=get_query,
        settings=CFG.annotation.labels.model_dump(mode="json"),
        seed="{seed}",
    script:
        "../workflow_scripts/classify.py"


# The same for methods whose packages are not in the core lock: in an environment, and a job, of their own.
use rule classify as extra_classify with:
    log:
        "results/logs/tasks/extra_classify_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/extra_classify_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("baseline", task="annotation", extra=True),
    group:
        None
    conda:
        "../envs/celltypist.yaml"


use rule finetune as annotate with:
    output:
        predictions="results/tasks/annotation/{dataset}/{method}/{seed}/predictions.parquet",
        run="results/tasks/annotation/{dataset}/{method}/{seed}/run.json",
        model=directory("results/tasks/annotation/{dataset}/{method}/{seed}/model"),
    log:
        "results/logs/tasks/annotate_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/annotate_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("finetune", task="annotation"),
    resources:
        **get_launch_resources(CFG.annotation.trainer),
        mem_mb=get_mem_mb(1400 + 30 * MODEL_MB),
        runtime=get_runtime(240),
    params:
        get_compared(CFG.annotation),
        task="annotation",
        model_folder=get_model_folder,
        folder="results/tasks/annotation/{dataset}/{method}/{seed}",
        settings=uncompared(CFG.annotation.model_dump_json()),
        more=get_query_option,
        init=get_init,
        seed="{seed}",
        state_folder="results/state/annotation/{dataset}/{method}/{seed}",
        launcher=uncompared(LAUNCHER),
        script=uncompared(get_path("workflow_scripts/finetune.py")),
