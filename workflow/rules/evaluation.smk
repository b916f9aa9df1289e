rule evaluate:
    input:
        unpack(prompt_files("good_holdout_prompts", "bad_holdout_prompts")),
        checked=ancient(rules.check_prompts.output[0]),
        chat=rules.find_response_prefix.output[0],
        edited=rules.apply_best.output,
        directions=rules.compute_directions.output.directions,
        model=model_files,
        original=original_files,
        code=source_of("evaluate"),
    output:
        "results/{run}/evaluation.json",
    log:
        "logs/{run}/evaluate.log",
    benchmark:
        "benchmarks/{run}/evaluate.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("evaluate"),
        model=model_path,
    message:
        "Comparing original, edited and control models on held-out prompts"
    script:
        "../../scripts/evaluate.py"


rule report:
    input:
        evaluation=rules.evaluate.output,
        best=rules.select_best.output,
        manifest=rules.save.output,
        trials=rules.optimize.output.trials,
        study=rules.optimize.output.study,
        geometry=rules.compute_directions.output.geometry,
        directions=rules.compute_directions.output.directions,
        good=rules.extract_residuals.output.good_prompts,
        bad=rules.extract_residuals.output.bad_prompts,
        benchmarks=benchmark_files,
        code=source_of("report"),
    output:
        report(
            "results/{run}/report.html",
            caption="../report/report.rst",
            category="Result",
            labels={"run": "{run}"},
        ),
    log:
        "logs/{run}/report.log",
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=settings_of("report"),
    message:
        "Writing the report"
    script:
        "../../scripts/report.py"
