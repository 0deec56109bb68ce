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
    conda:
        "../envs/pipeline.yaml"
    threads: 4
    resources:
        mem_mb=get_mem_mb(2000 + 15 * MODEL_MB),
        runtime=get_runtime(120),
        gpu=int(CFG.networks.device == "cuda"),
    params:
        model_folder=get_model_folder,
        settings=CFG.networks.model_dump(mode="json", include=PROGRAM_SETTINGS),
        seed=CFG.seed,
        code=get_code(
            *(
                f"networks/{name}"
                for name in ("cells", "embeddings", "gene_sets", "programs")
            )
        ),
    script:
        "../workflow_scripts/find_programs.py"
