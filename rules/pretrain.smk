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
        mem_mb=get_mem_mb(4000),
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
        mem_mb=get_mem_mb(16000),
        runtime=get_runtime(1440),
        gpu=int(CFG.pretrain.trainer.device == "cuda"),
    params:
        corpus=get_corpus_folder,
        folder="results/models/{model}",
        state="results/state/{model}",
        settings=CFG.pretrain.model_dump_json(),
        seed=CFG.seed,
        script=get_path("workflow_scripts/pretrain.py"),
        init=get_init_option,
        signals="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
    shell:
        # One process a GPU, and one without: no param, as other hardware is no reason to train anew.
        "torchrun --standalone --signals-to-handle {params.signals} --shutdown-timeout 300 "
        "--nproc-per-node $(( {resources.gpu} > 0 ? {resources.gpu} : 1 )) "
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
        mem_mb=get_mem_mb(4000),
        runtime=get_runtime(10),
    params:
        model_folder=get_model_folder,
        folder="results/exports/{model}",
    script:
        "../workflow_scripts/export_checkpoint.py"
