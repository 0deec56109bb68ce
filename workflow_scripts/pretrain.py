"""Pretrain a model on a corpus: one process of the job."""

import argparse
import os
import sys
from pathlib import Path

from scgpt_core.config import PretrainSettings
from scgpt_core.runs import start_logging
from scgpt_core.train.pretraining import pretrain

UNFINISHED = 75  # exit code of a run that was stopped and saved: run again, it goes on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="corpus folder")
    parser.add_argument("output", type=Path, help="model folder to write")
    parser.add_argument("--settings", required=True, help="config's pretrain section, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--init-from", type=Path, help="model folder to go on from")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads of the job")
    parser.add_argument("--log-file", type=Path, required=True)
    args = parser.parse_args()
    start_logging(args.log_file if os.environ.get("RANK", "0") == "0" else None)
    finished = pretrain(
        args.corpus,
        args.output,
        PretrainSettings.model_validate_json(args.settings),
        seed=args.seed,
        state_folder=args.state,
        init_from=args.init_from,
        threads=max(1, args.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
    )
    return 0 if finished else UNFINISHED


sys.exit(main())
