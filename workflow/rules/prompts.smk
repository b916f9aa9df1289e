rule load_prompts:
    input:
        files=source_files,
        phase=phase_of("load_prompts", settings_and_sources_of_set),
    output:
        "results/{run}/prompts/{prompts}.jsonl",
        "results/{run}/prompts/{prompts}.fingerprint.json",
    log:
        "logs/{run}/load_prompts/{prompts}.log",
    # Report errors in the prompts before a model is trained or loaded.
    priority: 1
    conda:
        "../../envs/heretic.yaml"
    params:
        sources=lambda wildcards: [
            source.model_dump(mode="json") for source in sources_of_set(wildcards)
        ],
        settings=settings_of_set,
    message:
        "Loading {wildcards.prompts}"
    script:
        "../../scripts/load_prompts.py"


rule check_prompts:
    input:
        unpack(prompt_files(*PROMPT_SETS)),
        phase=phase_of("check_prompts"),
    output:
        "results/{run}/prompts/bundle.json",
    log:
        "logs/{run}/check_prompts.log",
    priority: 1
    conda:
        "../../envs/heretic.yaml"
    message:
        "Checking the size and overlap of the prompt sets"
    script:
        "../../scripts/check_prompts.py"
