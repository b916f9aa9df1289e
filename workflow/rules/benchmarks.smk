rule benchmark_original:
    input:
        chat=rules.find_response_prefix.output[0],
        model=model_files,
        original=original_files,
        tasks=own_task_files,
        phase=phase_of("benchmark_original"),
    output:
        "results/{run}/benchmarks/original.json",
    log:
        "logs/{run}/benchmark_original.log",
    benchmark:
        "benchmarks/{run}/benchmark_original.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("benchmark_original"),
        model=model_path,
    message:
        "Scoring the original model on public benchmarks"
    script:
        "../../scripts/benchmark_original.py"


rule benchmark:
    input:
        chat=rules.find_response_prefix.output[0],
        original=rules.benchmark_original.output,
        edited=rules.apply_best.output,
        model=model_files,
        tasks=own_task_files,
        phase=phase_of("benchmark"),
    output:
        "results/{run}{pick}/benchmarks.json",
    log:
        "logs/{run}{pick}/benchmark.log",
    benchmark:
        "benchmarks/{run}{pick}/benchmark.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("benchmark"),
        model=model_path,
    message:
        "Scoring the edited model on public benchmarks"
    script:
        "../../scripts/benchmark.py"
