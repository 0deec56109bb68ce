# Tasks on the benchmark's data sets: zero-shot embeddings, fine-tuning, and their simple baselines.


def get_init(wildcards):
    """Weights that a method starts from."""
    return TABLES.methods[wildcards.method].init


rule embed:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        model=multiext(
            f"results/models/{CFG.model}/",
            "model.safetensors",
            "config.json",
            "vocab.json",
        ),
    output:
        embedding="results/tasks/{task}/{dataset}/{method}/{seed}/embedding.h5ad",
        run="results/tasks/{task}/{dataset}/{method}/{seed}/run.json",
    log:
        "results/logs/tasks/embed_{task}_{dataset}_{method}_{seed}.log",
    benchmark:
        "results/benchmarks/tasks/embed_{task}_{dataset}_{method}_{seed}.tsv"
    wildcard_constraints:
        method=get_methods("embed"),
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(8000),
        runtime=get_runtime(240),
        gpu=int(CFG.embed.device == "cuda"),
    params:
        model_folder=f"results/models/{CFG.model}",
        init=get_init,
        seed="{seed}",
        embed=CFG.embed.model_dump(mode="json"),
    script:
        "../workflow_scripts/embed.py"
