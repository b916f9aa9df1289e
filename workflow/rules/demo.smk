rule train_demo_model:
    input:
        code=source_of("train_demo_model"),
    output:
        DEMO_MANIFEST,
    log:
        f"logs/train_demo_model/{DEMO_NAME}.log",
    benchmark:
        f"benchmarks/train_demo_model/{DEMO_NAME}.tsv"
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=next(iter(RUNS.values())).subset("train_demo_model"),
    message:
        "Training the demo model: {params.settings[demo_family]} that refuses a {params.settings[demo_planted]}"
    script:
        "../../scripts/train_demo_model.py"
