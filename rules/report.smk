# The report: a page for each notebook, which is given what this run made and is rendered.
include: "helpers/report.smk"


rule render_report:
    input:
        unpack(get_page_artefacts),
        template=get_path("workflow_scripts/notebooks/{notebook}.ipynb"),
        layout=[
            get_path(f"workflow_scripts/notebooks/page/{file}")
            for file in ("conf.json", "index.html.j2", "static/page.css")
        ],
    output:
        notebook="results/report/{notebook}.ipynb",
        html=report(
            "results/report/{notebook}.html",
            caption="../workflow_scripts/report/page.rst",
            category="Report",
            labels={"page": "{notebook}"},
        ),
    log:
        "results/logs/report/render_report_{notebook}.log",
    benchmark:
        "results/benchmarks/report/render_report_{notebook}.tsv"
    wildcard_constraints:
        notebook="|".join(PAGES),
    group:
        "report"
    conda:
        "../envs/pipeline.yaml"
    threads: 1
    resources:
        mem_mb=get_mem_mb(2000),
        runtime=get_runtime(30),
    params:
        get_code(
            "findings",
            "index/layout",
            "label_metrics",
            "perturbation/scores",
            "plots",
            "report",
            "scores",
        ),
        parameters=get_page_parameters,
        pages=PAGES,
    script:
        "../workflow_scripts/render_report.py"


rule report:
    input:
        expand("results/report/{notebook}.html", notebook=PAGES),
