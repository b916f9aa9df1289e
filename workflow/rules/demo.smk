rule train_demo_model:
    input:
        phase=lambda wildcards: recorded(
            f"{RESULTS}/{PHASES}/{DEMO_NAME}.json",
            "train_demo_model",
            json.dumps(DEMO_SETTINGS),
            f"logs/train_demo_model/{DEMO_NAME}.log",
        ),
    output:
        DEMO_MANIFEST,
    log:
        f"logs/train_demo_model/{DEMO_NAME}.log",
    benchmark:
        f"benchmarks/train_demo_model/{DEMO_NAME}.tsv"
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=DEMO_SETTINGS,
    message:
        "Training the demo model: {params.settings[demo_family]}, refusing {params.settings[demo_refusal_class]}"
    script:
        "../../scripts/train_demo_model.py"
