# RNA, proteins and chromatin peaks together: an embedding by all of them, and what is missing imputed.


rule combine_modalities:
    input:
        "results/datasets/{dataset}.h5ad",
    output:
        embedding="results/tasks/multiomics/{dataset}/{method}/{seed}/embedding.h5ad",
        run="results/tasks/multiomics/{dataset}/{method}/{seed}/run.json",
    log:
        "results/logs/tasks/combine_modalities_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/combine_modalities_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("baseline", task="multiomics"),
    group:
        "datasets"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(120),
    params:
        get_code(
            "baselines",
            "joint_baselines",
            "tasks/datasets",
            "tasks/modalities",
            "tasks/mosaic",
        ),
        method="{method}",
        query=get_query,
        settings=CFG.multiomics.modalities.model_dump(mode="json"),
        seed="{seed}",
    script:
        "../workflow_scripts/combine_modalities.py"


# The same for methods whose packages are not in the core lock: in an environment, and a job, of their own.
use rule combine_modalities as extra_combine_modalities with:
    log:
        "results/logs/tasks/extra_combine_modalities_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/extra_combine_modalities_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("baseline", task="multiomics", extra=True),
    group:
        None
    conda:
        "../envs/baselines.yaml"
    resources:
        mem_mb=get_mem_mb(8000),
        runtime=get_runtime(240),


use rule finetune as finetune_modalities with:
    output:
        embedding="results/tasks/multiomics/{dataset}/{method}/{seed}/embedding.h5ad",
        run="results/tasks/multiomics/{dataset}/{method}/{seed}/run.json",
        model=directory("results/tasks/multiomics/{dataset}/{method}/{seed}/model"),
    log:
        "results/logs/tasks/finetune_modalities_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/finetune_modalities_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("finetune", task="multiomics"),
    resources:
        **get_launch_resources(CFG.multiomics.trainer),
        mem_mb=get_mem_mb(1400 + 30 * MODEL_MB),
        runtime=get_runtime(240),
    params:
        get_compared(CFG.multiomics),
        task="multiomics",
        model_folder=get_model_folder,
        folder="results/tasks/multiomics/{dataset}/{method}/{seed}",
        settings=uncompared(CFG.multiomics.model_dump_json()),
        more=get_query_option,
        init=get_init,
        seed="{seed}",
        state_folder="results/state/multiomics/{dataset}/{method}/{seed}",
        launcher=uncompared(LAUNCHER),
        script=uncompared(get_path("workflow_scripts/finetune.py")),
