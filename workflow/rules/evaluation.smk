rule evaluate:
    input:
        unpack(prompt_files("good_holdout_prompts", "bad_holdout_prompts")),
        # Residuals of the direction prompts, from which a control computes its directions.
        unpack(residual_files),
        checked=ancient(rules.check_prompts.output[0]),
        chat=rules.find_response_prefix.output[0],
        edited=rules.apply_best.output,
        directions=rules.compute_directions.output.directions,
        model=model_files,
        original=original_files,
        texts=plain_texts,
        scorers=files_of_scorers,
        phase=phase_of("evaluate"),
    output:
        evaluation="results/{run}{pick}/evaluation.json",
        answers="results/{run}{pick}/answers.jsonl",
    log:
        "logs/{run}{pick}/evaluate.log",
    benchmark:
        "benchmarks/{run}{pick}/evaluate.tsv"
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
        evaluation="results/{run}/evaluation.json",
        best="results/{run}/best.json",
        manifest="results/{run}/model.manifest.json",
        picks=further_picks("best.json"),
        evaluated_picks=further_picks("evaluation.json"),
        trials=rules.optimize.output.trials,
        study=rules.optimize.output.study,
        geometry=rules.compute_directions.output.geometry,
        directions=rules.compute_directions.output.directions,
        good=rules.extract_residuals.output.good_prompts,
        bad=rules.extract_residuals.output.bad_prompts,
        benchmarks=benchmark_files,
        phase=phase_of("report"),
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
