# What of a job's params Snakemake compares with those of the run before: where it differs, the job runs again.
SAVING = {
    "checkpoint_minutes",
    "keep_checkpoints",
    "time_budget_minutes",
    "time_margin_minutes",
}
UNCOMPARED = {
    "batch_size": True,
    "datasets": True,
    "device": True,
    "min_matched": True,
    "trainer": {
        *("nodes", "processes", "parallel", "device", "log_steps", "trackers"),
        *("attention", "compile", "activation_checkpointing"),
        *SAVING,
    },
}
"""Settings that change where, how fast and how closely watched a job runs, or when it refuses to: they are
no reason to do again what is done. (A device rounds as it does, and has its own `precision: auto`.)"""
UNCOMPARED_IN_PRETRAINING = UNCOMPARED | {
    "trainer": UNCOMPARED["trainer"] | {"micro_batch_cells"}
}
"""Nothing is taken over a micro-batch there: a run may go on with a smaller one."""


def get_compared(settings, *names, uncompared=UNCOMPARED):
    """Settings as a param that is compared: all but these, or those of them that have one of the names.

    It has no name there, so that the script is told nothing of it.
    """
    compared = settings.model_dump(
        mode="json", include={*names} or None, exclude=uncompared
    )
    return compared | {"portable_numerics": CFG.portable_numerics}


def uncompared(value):
    """A param that the job is told and that is not compared, as no function of `input` is."""

    def get_value(wildcards, input):
        return value

    return get_value


def get_code(*modules):
    """Digests of modules, as a param of a cheap rule: editing one of them runs it again.

    It has no name there, so that the script is told nothing of it.
    """
    paths = [ROOT / "scgpt_core" / module for module in modules]
    files = [sorted(path.glob("*.py")) or [f"{path}.py"] for path in paths]
    return [*(sha256(file) for found in files for file in found), CFG.portable_numerics]
