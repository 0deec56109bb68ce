# Models: imported where the user has a published checkpoint, trained where not; and exported.
include: "helpers/pretrain.smk"


rule import_checkpoint:
    input:
        get_checkpoint_files,
    output:
        weights="results/models/{model}/model.safetensors",
        config="results/models/{model}/config.json",
        vocab="results/models/{model}/vocab.json",
        training="results/models/{model}/training.json",
        card="results/models/{model}/README.md",
    log:
        "results/logs/pretrain/import_checkpoint_{model}.log",
    benchmark:
        "results/benchmarks/pretrain/import_checkpoint_{model}.tsv"
    wildcard_constraints:
        model=IMPORTED,
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000 + 10 * MODEL_MB),
        runtime=get_runtime(10),
    params:
        source=get_checkpoint_folder,
        folder="results/models/{model}",
    script:
        "../workflow_scripts/import_checkpoint.py"


# Checkpoints lie in results/state, which is no output: Snakemake deletes outputs before a retry.
rule pretrain:
    input:
        unpack(get_pretrain_files),
    output:
        weights="results/models/{model}/model.safetensors",
        config="results/models/{model}/config.json",
        vocab="results/models/{model}/vocab.json",
        training="results/models/{model}/training.json",
        card="results/models/{model}/README.md",
        metrics="results/models/{model}/metrics.jsonl",
    log:
        "results/logs/pretrain/pretrain_{model}.log",
    benchmark:
        "results/benchmarks/pretrain/pretrain_{model}.tsv"
    wildcard_constraints:
        model=TRAINED,
    conda:
        "../envs/pipeline.yaml"
    threads: 16
    resources:
        **get_launch_resources(CFG.pretrain.trainer),
        mem_mb=get_mem_mb(1600 + 50 * MODEL_MB),
        runtime=get_runtime(1440),
    params:
        get_compared(CFG.pretrain, uncompared=UNCOMPARED_IN_PRETRAINING),
        corpus=get_corpus_folder,
        folder="results/models/{model}",
        state="results/state/{model}",
        settings=uncompared(CFG.pretrain.model_dump_json()),
        seed=CFG.seed,
        launcher=uncompared(LAUNCHER),
        script=uncompared(get_path("workflow_scripts/pretrain.py")),
        init=get_init_option,
    shell:
        "{params.launcher:q} {resources.nodes} {resources.processes} {threads} "
        "{params.script:q} {params.corpus:q} {params.folder:q} "
        "--settings {params.settings:q} --seed {params.seed} --state {params.state:q} "
        "{params.init} --threads {threads} --log-file {log:q}"


rule export_checkpoint:
    input:
        model=get_model_files(),
    output:
        weights="results/exports/{model}/best_model.pt",
        args="results/exports/{model}/args.json",
        vocab="results/exports/{model}/vocab.json",
    log:
        "results/logs/pretrain/export_checkpoint_{model}.log",
    benchmark:
        "results/benchmarks/pretrain/export_checkpoint_{model}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000 + 10 * MODEL_MB),
        runtime=get_runtime(10),
    params:
        model_folder=get_model_folder,
        folder="results/exports/{model}",
    script:
        "../workflow_scripts/export_checkpoint.py"
