# What the rules of the stage perturbation ask: names, files and settings, by wildcards.
def get_perturbation_options(wildcards, input):
    """What finetune.py is told of this task alone."""
    return ["--split", input.split, "--gene-sets", input.gene_sets]


def get_predictions(wildcards):
    """Predicted cells and candidates of a method; none of the technical duplicate, the truth itself."""
    row = TABLES.methods[wildcards.method]
    folder = "results/tasks/perturbation/{dataset}/{method}/{seed}"
    files = {
        "predictions": f"{folder}/predictions.h5ad",
        "ranks": f"{folder}/reverse.parquet",
    }
    return {} if row.rule == "score" else files
