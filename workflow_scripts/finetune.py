"""Fine-tune a model on a data set for a task: one process of the job."""

import argparse
import os
from pathlib import Path

from scgpt_core.config import AnnotationSettings, IntegrationSettings, MultiomicsSettings
from scgpt_core.runs import start_logging
from scgpt_core.tasks.annotation import annotate_dataset
from scgpt_core.tasks.integration import integrate_dataset
from scgpt_core.tasks.multiomics import integrate_modalities

TASKS = {
    "integration": (integrate_dataset, IntegrationSettings),
    "annotation": (annotate_dataset, AnnotationSettings),
    "multiomics": (integrate_modalities, MultiomicsSettings),
}
PATHS = ("dataset", "model_folder", "output_folder", "state_folder", "log_file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    for name in PATHS:
        parser.add_argument(name, type=Path)
    parser.add_argument("--settings", required=True, help="config's section of the task, as JSON")
    parser.add_argument("--init", required=True, choices=["pretrained", "random"])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="CPU threads of the machine")
    parser.add_argument("--query", nargs="+", help="batches to label or impute")
    options = {name: x for name, x in vars(parser.parse_args()).items() if x is not None}
    log_file = options.pop("log_file")
    start_logging(log_file if os.environ.get("RANK", "0") == "0" else None)
    finetune, settings = TASKS[options.pop("task")]
    options["settings"] = settings.model_validate_json(options["settings"])
    options["threads"] = max(1, options["threads"] // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    finetune(**options)


main()
