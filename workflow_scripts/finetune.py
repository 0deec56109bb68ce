"""Fine-tune a model on a data set, and embed the data set with it: one process of the job."""

import argparse
import os
from pathlib import Path

from scgpt_core.config import IntegrationSettings
from scgpt_core.runs import start_logging
from scgpt_core.tasks.integration import integrate_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="prepared data set")
    parser.add_argument("model", type=Path, help="model folder to start from")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--settings", required=True, help="config's integration section, as JSON")
    parser.add_argument("--init", required=True, choices=["pretrained", "random"])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads of the machine")
    parser.add_argument("--log-file", type=Path, required=True)
    args = parser.parse_args()
    start_logging(args.log_file if os.environ.get("RANK", "0") == "0" else None)
    integrate_dataset(
        args.dataset,
        args.model,
        args.output,
        state_folder=args.state,
        settings=IntegrationSettings.model_validate_json(args.settings),
        init=args.init,
        seed=args.seed,
        threads=max(1, args.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
    )


main()
