rule optimize:
    input:
        unpack(prompt_files("good_evaluation_prompts", "bad_evaluation_prompts")),
        checked=ancient(rules.check_prompts.output[0]),
        chat=rules.find_response_prefix.output[0],
        directions=rules.compute_directions.output.directions,
        model=model_files,
        warm_starts=warm_start_files,
        code=source_of("optimize"),
    output:
        trials="results/{run}/trials.csv",
        study="results/{run}/study.json",
    log:
        "logs/{run}/optimize.log",
    benchmark:
        "benchmarks/{run}/optimize.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("optimize"),
        model=model_path,
        # State, not an output: Snakemake deletes outputs before a rule runs.
        database="results/{run}/study.db",
    message:
        "Searching where and how strongly to ablate"
    script:
        "../../scripts/optimize.py"


rule select_best:
    input:
        study=rules.optimize.output.study,
        code=source_of("select_best"),
    output:
        "results/{run}/best.json",
    log:
        "logs/{run}/select_best.log",
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=settings_of("select_best"),
    message:
        "Choosing a trial of the Pareto front"
    script:
        "../../scripts/select_best.py"
