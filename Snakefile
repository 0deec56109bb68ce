# scGPT, from the Census to the report. Read it from top to bottom: it is the order of the flow.
from snakemake.utils import min_version

min_version("9.10")


configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow_scripts/report/workflow.rst"


include: "rules/common.smk"
include: "rules/census.smk"
include: "rules/shards.smk"
include: "rules/pretrain.smk"
include: "rules/tasks.smk"
include: "rules/annotation.smk"
include: "rules/multiomics.smk"
include: "rules/perturbation.smk"
include: "rules/index.smk"
include: "rules/networks.smk"
include: "rules/benchmark.smk"
include: "rules/report.smk"


onstart:
    cancel_left_jobs(Path.cwd())
    # For its default limit, 100 jobs a second, Snakemake (9.27) sets a timer of a second more with each
    # job that ends, and each of them looks through all jobs: 40 % of a core after 117 of 481 jobs.
    limit = workflow.scheduler.job_rate_limiter
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


rule all:
    default_target: True
    input:
        rules.report.input,
