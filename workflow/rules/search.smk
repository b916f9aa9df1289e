rule optimize:
    input:
        unpack(prompt_files("good_evaluation_prompts", "bad_evaluation_prompts")),
        checked=ancient(rules.check_prompts.output[0]),
        chat=rules.find_response_prefix.output[0],
        directions=rules.compute_directions.output.directions,
        model=model_files,
        texts=plain_texts,
        scorers=files_of_scorers,
        warm_starts=warm_start_files,
        phase=phase_of("optimize"),
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
        "Optimizing ablation parameters"
    script:
        "../../scripts/optimize.py"


rule score_finalists:
    input:
        unpack(prompt_files("good_evaluation_prompts", "bad_evaluation_prompts")),
        chat=rules.find_response_prefix.output[0],
        directions=rules.compute_directions.output.directions,
        study=rules.optimize.output.study,
        model=model_files,
        texts=plain_texts,
        scorers=files_of_scorers,
        phase=phase_of("score_finalists", settings_of_pick("score_finalists")),
    output:
        "results/{run}{pick}/finalists.json",
    log:
        "logs/{run}{pick}/score_finalists.log",
    benchmark:
        "benchmarks/{run}{pick}/score_finalists.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of_pick("score_finalists"),
        model=model_path,
    message:
        "Re-scoring finalists on the exported weights"
    script:
        "../../scripts/score_finalists.py"


rule select_best:
    input:
        study=rules.optimize.output.study,
        finalists=rules.score_finalists.output[0],
        phase=phase_of("select_best", settings_of_pick("select_best")),
    output:
        "results/{run}{pick}/best.json",
    log:
        "logs/{run}{pick}/select_best.log",
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=settings_of_pick("select_best"),
    message:
        "Selecting a trial from the finalists"
    script:
        "../../scripts/select_best.py"
