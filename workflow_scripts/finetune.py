"""Fine-tune a model on a data set for a task: one process of the job."""

import argparse
import os

from scgpt_core import config
from scgpt_core.perturbation import finetuning as perturbation
from scgpt_core.runs import start_logging
from scgpt_core.tasks import annotation, integration, multiomics

TASKS = {
    "integration": (integration.integrate_dataset, config.IntegrationSettings),
    "annotation": (annotation.annotate_dataset, config.AnnotationSettings),
    "multiomics": (multiomics.integrate_modalities, config.MultiomicsSettings),
    "perturbation": (perturbation.perturb_dataset, config.PerturbationSettings),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    for name in ("dataset", "model_folder", "output_folder", "state_folder", "log_file"):
        parser.add_argument(name)
    for name in ("--split", "--gene-sets"):  # perturbation
        parser.add_argument(name)
    parser.add_argument("--settings", required=True, help="config's section of the task, as JSON")
    parser.add_argument("--init", required=True, choices=["pretrained", "random"])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="of the machine's CPU")
    parser.add_argument("--query", nargs="+", help="batches to label or impute")
    options = {name: x for name, x in vars(parser.parse_args()).items() if x is not None}
    log_file = options.pop("log_file")
    start_logging(log_file if os.environ.get("RANK", "0") == "0" else None)
    finetune, settings = TASKS[options.pop("task")]
    options["settings"] = settings.model_validate_json(options["settings"])
    options["threads"] = max(1, options["threads"] // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    finetune(**options)


main()
