# Gene programs and gene networks of data sets, beside simple ways to find them.
include: "helpers/networks.smk"


rule find_programs:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        model=get_model_files(CFG.model),
        gene_sets=get_path(CFG.networks.gene_sets),
    output:
        **get_network_tables("programs", "genes", "activity", "enrichment", "scores"),
        run="results/networks/{dataset}/programs/run.json",
    log:
        "results/logs/networks/find_programs_{dataset}.log",
    benchmark:
        "results/benchmarks/networks/find_programs_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(CFG.networks.datasets),
    group:
        get_group("embed", CFG.networks.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 4
    resources:
        mem_mb=get_mem_mb(2000 + 15 * MODEL_MB),
        runtime=get_runtime(120),
        gpu=int(CFG.networks.device == "cuda"),
    params:
        get_code("neighbours"),
        get_network_code("embeddings", "programs"),
        get_compared(CFG.networks, "programs"),
        model_folder=get_model_folder,
        settings=NETWORK_SETTINGS,
        seed=CFG.seed,
    script:
        "../workflow_scripts/find_programs.py"


rule prepare_network:
    input:
        dataset="results/datasets/{dataset}.h5ad",
        vocab=get_model_files(CFG.model)[2],
        regulators=get_path(CFG.networks.regulators),
        regulation=get_path(CFG.networks.regulation),
    output:
        "results/networks/{dataset}/cells.h5ad",
    log:
        "results/logs/networks/prepare_network_{dataset}.log",
    benchmark:
        "results/benchmarks/networks/prepare_network_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(CFG.networks.datasets),
    group:
        get_group("embed", CFG.networks.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1500),
        runtime=get_runtime(60),
    params:
        get_network_code(),
        get_compared(CFG.networks, "n_genes", "min_regulator_share", "trees"),
        contrast=get_contrast,
        settings=NETWORK_SETTINGS,
        seed=CFG.seed,
    script:
        "../workflow_scripts/prepare_network.py"


# All heads of all cells: hours on a CPU where the model is large.
rule attend_genes:
    input:
        cells="results/networks/{dataset}/cells.h5ad",
        model=get_model_files(CFG.model),
    output:
        edges="results/networks/{dataset}/edges/{network}.parquet",
        run="results/networks/{dataset}/edges/{network}.json",
    log:
        "results/logs/networks/attend_genes_{dataset}_{network}.log",
    benchmark:
        "results/benchmarks/networks/attend_genes_{dataset}_{network}.tsv"
    wildcard_constraints:
        dataset=get_names(CFG.networks.datasets),
        network=get_names(ATTENTION),
    group:
        get_group("embed", CFG.networks.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(1500 + 15 * MODEL_MB),
        runtime=get_runtime(720),
        gpu=int(CFG.networks.device == "cuda"),
    params:
        get_network_code("attention"),
        get_compared(CFG.networks, "attention", "zeros"),
        model_folder=get_model_folder,
        settings=NETWORK_SETTINGS,
        init=get_attention_init,
        seed=CFG.seed,
    script:
        "../workflow_scripts/attend_genes.py"


rule knock_out_genes:
    input:
        cells="results/networks/{dataset}/cells.h5ad",
        model=get_model_files(CFG.model),
    output:
        edges="results/networks/{dataset}/edges/knockout.parquet",
        shifts="results/networks/{dataset}/edges/shifts.parquet",
        run="results/networks/{dataset}/edges/knockout.json",
    log:
        "results/logs/networks/knock_out_genes_{dataset}.log",
    benchmark:
        "results/benchmarks/networks/knock_out_genes_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(CFG.networks.datasets),
    group:
        get_group("embed", CFG.networks.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 8
    resources:
        mem_mb=get_mem_mb(1500 + 15 * MODEL_MB),
        runtime=get_runtime(720),
        gpu=int(CFG.networks.device == "cuda"),
    params:
        get_network_code("attention", "knockout"),
        get_compared(CFG.networks, "knockout", "zeros"),
        model_folder=get_model_folder,
        settings=NETWORK_SETTINGS,
        seed=CFG.seed,
    script:
        "../workflow_scripts/knock_out_genes.py"


rule correlate_genes:
    input:
        cells="results/networks/{dataset}/cells.h5ad",
    output:
        **get_network_tables("edges", "pearson", "spearman", "trees"),
        run="results/networks/{dataset}/edges/baselines.json",
    log:
        "results/logs/networks/correlate_genes_{dataset}.log",
    benchmark:
        "results/benchmarks/networks/correlate_genes_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(CFG.networks.datasets),
    group:
        get_group("embed", CFG.networks.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(1500),
        runtime=get_runtime(240),
    params:
        get_network_code("coexpression"),
        get_compared(CFG.networks, "trees"),
        settings=NETWORK_SETTINGS,
        seed=CFG.seed,
    script:
        "../workflow_scripts/correlate_genes.py"


rule validate_network:
    input:
        **get_network_tables("edges", *NETWORKS),
        cells="results/networks/{dataset}/cells.h5ad",
        regulation=get_path(CFG.networks.regulation),
        gene_sets=get_path(CFG.networks.gene_sets),
    output:
        **get_network_tables(
            "validation", "scores", "changes", *(f"{name}_graph" for name in NETWORKS)
        ),
        graphs=multiext(
            "results/networks/{dataset}/validation/",
            *(f"{name}.graphml" for name in NETWORKS),
        ),
    log:
        "results/logs/networks/validate_network_{dataset}.log",
    benchmark:
        "results/benchmarks/networks/validate_network_{dataset}.tsv"
    wildcard_constraints:
        dataset=get_names(CFG.networks.datasets),
    group:
        get_group("embed", CFG.networks.device)
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(60),
    params:
        get_network_code("validation"),
        sources=NETWORKS,
        n_edges=CFG.networks.graph_edges,
        seed=CFG.seed,
    script:
        "../workflow_scripts/validate_network.py"
