# What the rules of the stage pretrain ask: names, files and settings, by wildcards.
IMPORTED = get_names(CFG.checkpoints)
TRAINED = get_names(sorted(TABLES.models.keys() - CFG.checkpoints.keys()))


def get_checkpoint_folder(wildcards):
    """The published checkpoint that the user downloaded."""
    return get_path(CFG.checkpoints[wildcards.model])


def get_checkpoint_files(wildcards):
    """The files of that checkpoint."""
    folder = get_checkpoint_folder(wildcards)
    return [f"{folder}/{name}" for name in ("args.json", "best_model.pt", "vocab.json")]


def get_corpus_folder(wildcards):
    """The corpus that a model is trained on."""
    return f"results/shards/{TABLES.models[wildcards.model].corpus}"


def get_pretrain_files(wildcards):
    """The corpus's manifest and vocabulary, and the weights that training starts from."""
    corpus, origin = (
        get_corpus_folder(wildcards),
        TABLES.models[wildcards.model].init_from,
    )
    files = {"manifest": f"{corpus}/manifest.json", "vocab": f"{corpus}/vocab.json"}
    if origin:
        files["weights"] = f"results/models/{origin}/model.safetensors"
    return files


def get_init_option(wildcards):
    """The option that names the model to go on from."""
    origin = TABLES.models[wildcards.model].init_from
    return f"--init-from results/models/{origin}" if origin else ""
