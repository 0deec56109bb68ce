# Models: imported where the user has a published checkpoint, trained where not; and exported.
NEVER = "(?!)"
IMPORTED = "|".join(CFG.checkpoints) or NEVER


def get_checkpoint_folder(wildcards):
    """The published checkpoint that the user downloaded."""
    return get_path(CFG.checkpoints[wildcards.model])


def get_checkpoint_files(wildcards):
    """The files of that checkpoint."""
    folder = get_checkpoint_folder(wildcards)
    return [f"{folder}/{name}" for name in ("args.json", "best_model.pt", "vocab.json")]


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


rule export_checkpoint:
    input:
        weights="results/models/{model}/model.safetensors",
        config="results/models/{model}/config.json",
        vocab="results/models/{model}/vocab.json",
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
        model_folder="results/models/{model}",
        folder="results/exports/{model}",
    script:
        "../workflow_scripts/export_checkpoint.py"
