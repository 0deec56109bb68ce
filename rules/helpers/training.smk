# What the rules that train ask: how their processes are started, and on how many machines.
LAUNCHER = str(ROOT / "workflow_scripts/torchrun.sh")


def get_launch_resources(trainer):
    """Machines, processes and GPUs, in the words of the Slurm executor plugin.

    One machine has `gpu` of them; of several, each has one task, which starts the processes there.
    """
    gpus = trainer.processes if trainer.device == "cuda" else 0
    launch = {"nodes": trainer.nodes, "processes": trainer.processes}
    if trainer.nodes == 1:
        return launch | {"gpu": gpus}
    launch |= {"mpi": "srun", "tasks": trainer.nodes}
    return launch | ({"gres": f"gpu:{gpus}", "tasks_per_gpu": 0} if gpus else {})
