# The reference: embeddings of its corpora, shard by shard, their index, and data sets mapped onto it.
include: "helpers/index.smk"


# Finished blocks lie beside the output until it is whole: a killed job goes on from them.
rule embed_corpus:
    input:
        shard="results/shards/{corpus}/shard_{partition}.arrow",
        manifest="results/shards/{corpus}/manifest.json",
        model=get_model_files(),
    output:
        "results/index/{model}/{corpus}/embeddings/shard_{partition}.arrow",
    log:
        "results/logs/index/embed_corpus_{model}_{corpus}_{partition}.log",
    benchmark:
        "results/benchmarks/index/embed_corpus_{model}_{corpus}_{partition}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(8000),
        runtime=get_runtime(240),
        gpu=int(CFG.embed.device == "cuda"),
    params:
        model_folder=get_model_folder,
        settings=CFG.embed.model_dump(mode="json"),
        seed=CFG.seed,
    script:
        "../workflow_scripts/embed_corpus.py"


# What is added already lies in results/state, which is no output: Snakemake deletes outputs before a retry.
rule build_index:
    input:
        embeddings=get_embeddings,
    output:
        index="results/index/{model}/{corpus}/index.faiss",
        labels="results/index/{model}/{corpus}/labels.arrow",
        sample="results/index/{model}/{corpus}/sample.arrow",
        manifest="results/index/{model}/{corpus}/manifest.json",
    log:
        "results/logs/index/build_index_{model}_{corpus}.log",
    benchmark:
        "results/benchmarks/index/build_index_{model}_{corpus}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 16
    resources:
        mem_mb=get_mem_mb(8000),
        runtime=get_runtime(720),
    params:
        settings=CFG.index.model_dump(
            mode="json", exclude={"mapping", "queries", "join"}
        ),
        seed=CFG.seed,
        state="results/state/index/{model}/{corpus}",
    script:
        "../workflow_scripts/build_index.py"


rule map_query:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        index=rules.build_index.output.manifest,
        files=[
            rules.build_index.output.index,
            rules.build_index.output.labels,
            rules.build_index.output.sample,
        ],
        model=get_model_files(),
        corpora=get_corpora,
        ontology=get_path("resources/cell_ontology.tsv"),
    output:
        mapping="results/index/{model}/{corpus}/map/{dataset}/mapping.parquet",
        embedding="results/index/{model}/{corpus}/map/{dataset}/embedding.h5ad",
        run="results/index/{model}/{corpus}/map/{dataset}/run.json",
    log:
        "results/logs/index/map_query_{model}_{corpus}_{dataset}.log",
    benchmark:
        "results/benchmarks/index/map_query_{model}_{corpus}_{dataset}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(8000),
        runtime=get_runtime(120),
        gpu=int(CFG.embed.device == "cuda"),
    params:
        model_folder=get_model_folder,
        settings=CFG.index.mapping.model_dump(mode="json"),
        embed=CFG.embed.model_dump(mode="json"),
        seed=CFG.seed,
        code=get_code("index/query", "index/transfer", "index/vote", "index/baselines"),
    script:
        "../workflow_scripts/map_query.py"
