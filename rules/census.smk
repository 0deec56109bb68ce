# Cells of a corpus: which ones (query_census), and their counts, partition by partition.
include: "helpers/census.smk"


rule build_census:
    input:
        table=get_census_table,
        sources=get_census_sources,
        cell_types=get_path("resources/cell_types.tsv"),
    output:
        directory("results/census/{table}_soma"),
    log:
        "results/logs/census/build_census_{table}.log",
    benchmark:
        "results/benchmarks/census/build_census_{table}.tsv"
    wildcard_constraints:
        table=get_names(get_census_tables()),
    group:
        "census"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(30),
    params:
        root=uncompared(str(ROOT)),
    script:
        "../workflow_scripts/build_census.py"


checkpoint query_census:
    input:
        get_local_census,
    output:
        cells="results/census/{corpus}/cells.parquet",
    log:
        "results/logs/census/query_census_{corpus}.log",
    benchmark:
        "results/benchmarks/census/query_census_{corpus}.tsv"
    group:
        "census"
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=get_query_mem_mb,
        runtime=get_runtime(120),
        downloads=1,
    params:
        census=get_census,
        organism=get_organism,
        obs_value_filter=get_obs_value_filter,
        partition_cells=CFG.census.partition_cells,
        attempts=uncompared(CFG.census.attempts),
        tiledb=uncompared(CFG.census.tiledb),
    script:
        "../workflow_scripts/query_census.py"


rule download_partition:
    input:
        census=ancient(get_local_census),
        cells=ancient("results/census/{corpus}/cells.parquet"),
    output:
        counts="results/census/{corpus}/partition_{partition}.h5ad",
        sha256="results/census/{corpus}/partition_{partition}.h5ad.sha256",
    log:
        "results/logs/census/download_partition_{corpus}_{partition}.log",
    benchmark:
        "results/benchmarks/census/download_partition_{corpus}_{partition}.tsv"
    group:
        "download"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_partition_mem_mb(),
        runtime=get_runtime(120),
        downloads=1,
    params:
        partition="{partition}",
        cells_digest=get_cells_digest,
        attempts=uncompared(CFG.census.attempts),
        tiledb=uncompared(CFG.census.tiledb),
    script:
        "../workflow_scripts/download_partition.py"
