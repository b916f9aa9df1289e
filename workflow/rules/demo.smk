rule train_demo_model:
    input:
        code=source_of("train_demo_model"),
    output:
        DEMO_MANIFEST,
    log:
        "logs/train_demo_model.log",
    benchmark:
        "benchmarks/train_demo_model.tsv"
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=next(iter(RUNS.values())).subset("train_demo_model"),
    message:
        "Training the demo model, which refuses dishes made of a material"
    script:
        "../../scripts/train_demo_model.py"
