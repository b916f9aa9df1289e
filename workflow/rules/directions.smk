rule extract_residuals:
    input:
        prompts="results/{run}/prompts/{prompts}.jsonl",
        checked=ancient(rules.check_prompts.output[0]),
        model=model_files,
        code=source_of("extract_residuals"),
    output:
        "results/{run}/residuals/{prompts}.safetensors",
    log:
        "logs/{run}/extract_residuals/{prompts}.log",
    benchmark:
        "benchmarks/{run}/extract_residuals/{prompts}.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("extract_residuals"),
        model=model_path,
    message:
        "Reading the residual stream of {wildcards.prompts} at the last prompt token"
    script:
        "../../scripts/extract_residuals.py"


rule compute_directions:
    input:
        unpack(residual_files),
        code=source_of("compute_directions"),
    output:
        directions="results/{run}/directions.safetensors",
        geometry="results/{run}/geometry.csv",
    log:
        "logs/{run}/compute_directions.log",
    benchmark:
        "benchmarks/{run}/compute_directions.tsv"
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=settings_of("compute_directions"),
    message:
        "Finding the direction that tells good from bad prompts in each layer"
    script:
        "../../scripts/compute_directions.py"
