rule find_response_prefix:
    input:
        unpack(prompt_files("good_prompts", "bad_prompts")),
        checked=ancient(rules.check_prompts.output[0]),
        model=model_files,
        phase=phase_of("find_response_prefix"),
    output:
        "results/{run}/chat.json",
    log:
        "logs/{run}/find_response_prefix.log",
    benchmark:
        "benchmarks/{run}/find_response_prefix.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("find_response_prefix"),
        model=model_path,
    message:
        "Detecting the response prefix"
    script:
        "../../scripts/find_response_prefix.py"


rule extract_residuals:
    input:
        unpack(prompt_files(*STATE_SETS)),
        checked=ancient(rules.check_prompts.output[0]),
        chat=rules.find_response_prefix.output[0],
        model=model_files,
        phase=phase_of("extract_residuals"),
    output:
        good_prompts="results/{run}/residuals/good_prompts.safetensors",
        bad_prompts="results/{run}/residuals/bad_prompts.safetensors",
        # Evaluation prompts are not used to compute directions, so they can validate them.
        good_evaluation_prompts="results/{run}/residuals/good_evaluation_prompts.safetensors",
        bad_evaluation_prompts="results/{run}/residuals/bad_evaluation_prompts.safetensors",
    log:
        "logs/{run}/extract_residuals.log",
    benchmark:
        "benchmarks/{run}/extract_residuals.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("extract_residuals"),
        model=model_path,
    message:
        "Extracting residuals of good and bad prompts"
    script:
        "../../scripts/extract_residuals.py"


rule extract_protected_residuals:
    input:
        prompts="results/{run}/prompts/{prompts}.jsonl",
        checked=ancient(rules.check_prompts.output[0]),
        chat=rules.find_response_prefix.output[0],
        model=model_files,
        phase=phase_of("extract_protected_residuals", settings_of_protected),
    output:
        "results/{run}/residuals/{prompts}.safetensors",
    log:
        "logs/{run}/extract_protected_residuals/{prompts}.log",
    benchmark:
        "benchmarks/{run}/extract_protected_residuals/{prompts}.tsv"
    wildcard_constraints:
        prompts="|".join(OPTIONAL_SETS),
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of_protected,
        model=model_path,
    message:
        "Extracting residuals of {wildcards.prompts} for orthogonalization"
    script:
        "../../scripts/extract_protected_residuals.py"


rule compute_directions:
    input:
        unpack(residual_files),
        phase=phase_of("compute_directions"),
    output:
        directions="results/{run}/directions.safetensors",
        geometry="results/{run}/geometry.csv",
    log:
        "logs/{run}/compute_directions.log",
    benchmark:
        "benchmarks/{run}/compute_directions.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("compute_directions"),
    message:
        "Computing the direction that separates good and bad prompts in each layer"
    script:
        "../../scripts/compute_directions.py"
