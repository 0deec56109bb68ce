# The reference: embeddings of its corpora and data sets, their index, and data sets mapped onto it.
include: "helpers/index.smk"


INDEX_SETTINGS = CFG.index.model_dump(
    mode="json", exclude={"mapping", "queries", "reference", "combine"}
)


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
    group:
        get_group("reference", CFG.embed.device)
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
        settings=uncompared(CFG.embed.model_dump(mode="json")),
        seed=CFG.seed,
    script:
        "../workflow_scripts/embed_corpus.py"


rule embed_reference:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        model=get_model_files(),
    output:
        "results/index/{model}/{dataset}/embeddings/shard_0.arrow",
    log:
        "results/logs/index/embed_reference_{model}_{dataset}.log",
    benchmark:
        "results/benchmarks/index/embed_reference_{model}_{dataset}.tsv"
    group:
        get_group("reference", CFG.embed.device)
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
        settings=uncompared(CFG.embed.model_dump(mode="json")),
        seed=CFG.seed,
    script:
        "../workflow_scripts/embed_reference.py"


# What is added already lies in results/state, which is no output: Snakemake deletes outputs before a retry.
rule build_index:
    input:
        embeddings=get_embeddings,
        like=get_like,
    output:
        manifest="results/index/{model}/{reference}/manifest.json",
        index="results/index/{model}/{reference}/index.faiss",
        labels="results/index/{model}/{reference}/labels.arrow",
        sample="results/index/{model}/{reference}/sample.arrow",
    log:
        "results/logs/index/build_index_{model}_{reference}.log",
    benchmark:
        "results/benchmarks/index/build_index_{model}_{reference}.tsv"
    wildcard_constraints:
        reference=get_reference_names("build"),
    group:
        "index"
    conda:
        "../envs/pipeline.yaml"
    threads: 16
    resources:
        mem_mb=get_index_mem_mb,
        runtime=get_runtime(720),
    params:
        settings=INDEX_SETTINGS,
        seed=CFG.seed,
        state_folder="results/state/index/{model}/{reference}",
    script:
        "../workflow_scripts/build_index.py"


# Cells of one more source are added to an index, nothing is trained.
use rule build_index as update_index with:
    input:
        embeddings=get_embeddings,
        indexed=get_first,
    log:
        "results/logs/index/update_index_{model}_{reference}.log",
    benchmark:
        "results/benchmarks/index/update_index_{model}_{reference}.tsv"
    wildcard_constraints:
        reference=get_reference_names("update"),


use rule build_index as merge_indexes with:
    input:
        embeddings=get_embeddings,
        indexed=get_parts,
    log:
        "results/logs/index/merge_indexes_{model}_{reference}.log",
    benchmark:
        "results/benchmarks/index/merge_indexes_{model}_{reference}.tsv"
    wildcard_constraints:
        reference=get_reference_names("merge"),


rule map_query:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        index=get_index_files("{reference}"),
        model=get_model_files(),
        sources=get_sources,
        ontology=get_path("resources/cell_ontology.tsv"),
    output:
        mapping="results/index/{model}/{reference}/map/{dataset}/mapping.parquet",
        embedding="results/index/{model}/{reference}/map/{dataset}/embedding.h5ad",
        run="results/index/{model}/{reference}/map/{dataset}/run.json",
    log:
        "results/logs/index/map_query_{model}_{reference}_{dataset}.log",
    benchmark:
        "results/benchmarks/index/map_query_{model}_{reference}_{dataset}.tsv"
    group:
        get_group("index", CFG.embed.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(2000 + 15 * MODEL_MB),
        runtime=get_runtime(120),
        gpu=int(CFG.embed.device == "cuda"),
    params:
        get_code(
            "index/baselines",
            "index/labels",
            "index/neighbours",
            "index/ontology",
            "index/query",
            "index/reference",
            "index/sources",
            "index/transfer",
            "index/vote",
        ),
        get_compared(CFG.embed),
        model_folder=get_model_folder,
        settings=CFG.index.mapping.model_dump(mode="json"),
        embed=uncompared(CFG.embed.model_dump(mode="json")),
        seed=CFG.seed,
    script:
        "../workflow_scripts/map_query.py"
