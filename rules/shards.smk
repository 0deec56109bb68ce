# The corpus as token shards: vocabulary, quality control, one shard a partition, the manifest, and
# which cells of the data sets for tests it has already.
include: "helpers/shards.smk"


rule build_vocab:
    input:
        unpack(get_partition_files),
        published=get_published_vocab(),
    output:
        "results/shards/{corpus}/vocab.json",
    log:
        "results/logs/shards/build_vocab_{corpus}.log",
    benchmark:
        "results/benchmarks/shards/build_vocab_{corpus}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000),
        runtime=get_runtime(60),
    params:
        min_cells=CFG.shards.min_cells_per_gene,
    script:
        "../workflow_scripts/build_vocab.py"


rule build_shard:
    input:
        partition="results/census/{corpus}/partition_{partition}.h5ad",
        sha256="results/census/{corpus}/partition_{partition}.h5ad.sha256",
        vocab="results/shards/{corpus}/vocab.json",
    output:
        shard="results/shards/{corpus}/shard_{partition}.arrow",
        summary="results/shards/{corpus}/shard_{partition}.json",
    log:
        "results/logs/shards/build_shard_{corpus}_{partition}.log",
    benchmark:
        "results/benchmarks/shards/build_shard_{corpus}_{partition}.tsv"
    group:
        "shards"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_partition_mem_mb(),
        runtime=get_runtime(60),
    params:
        qc=get_qc,
    script:
        "../workflow_scripts/build_shard.py"


rule seal_shards:
    input:
        shards=get_shards,
        vocab="results/shards/{corpus}/vocab.json",
    output:
        "results/shards/{corpus}/manifest.json",
    log:
        "results/logs/shards/seal_shards_{corpus}.log",
    benchmark:
        "results/benchmarks/shards/seal_shards_{corpus}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1000),
        runtime=get_runtime(30),
    params:
        corpus="{corpus}",
        heldout_by=CFG.shards.heldout_by,
        heldout_share=CFG.shards.heldout_share,
        seed=CFG.seed,
    script:
        "../workflow_scripts/seal_shards.py"


rule check_overlap:
    input:
        manifest="results/shards/{corpus}/manifest.json",
        datasets=get_tested_datasets(),
    output:
        "results/shards/{corpus}/overlap.json",
    log:
        "results/logs/shards/check_overlap_{corpus}.log",
    benchmark:
        "results/benchmarks/shards/check_overlap_{corpus}.tsv"
    group:
        "report"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(240),
    script:
        "../workflow_scripts/check_overlap.py"
