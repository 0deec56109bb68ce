"""An executor that runs nothing: outputs are those of a finished run, or empty.

It submits what a cluster's executor would, in seconds, and tells each submission as a line of
JSON: its jobs. The folder of the finished run is in REPLAYED_RUN.
"""

import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(RemoteExecutor):
    """Submits to nobody."""

    def __post_init__(self) -> None:
        self.next_seconds_between_status_checks = 0.05

    def run_job(self, job: JobExecutorInterface) -> None:
        """Say what is submitted."""
        jobs = job.jobs if job.is_group() else [job]
        outputs = sorted(str(one.output[0]) for one in jobs)
        sys.stderr.write(f"SUBMITTED {json.dumps(outputs)}\n")
        self.report_job_submission(SubmittedJobInfo(job))

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """End all that was submitted."""
        for info in active_jobs:
            layers = info.job.toposorted if info.job.is_group() else [[info.job]]
            for job in (job for layer in layers for job in layer):
                for path in (*job.output, *job.log, job.benchmark):
                    replay(path)
            self.report_job_success(info)
        for none in ():
            yield none

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """There is nothing to cancel."""


def replay(path: str) -> None:
    """Write what the finished run has of this name."""
    made = Path(os.environ["REPLAYED_RUN"], path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if made.is_dir():
        shutil.copytree(made, path, dirs_exist_ok=True)
    elif made.exists():
        shutil.copy(made, path)
    else:
        Path(path).touch()
