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


rule all:
    default_target: True
    input:
        rules.report.input,
