rule apply_best:
    input:
        best=rules.select_best.output,
        directions=rules.compute_directions.output.directions,
        model=model_files,
        original=original_files,
        phase=phase_of("apply_best"),
    output:
        "results/{run}{pick}/model/ablation.json",
    log:
        "logs/{run}{pick}/apply_best.log",
    benchmark:
        "benchmarks/{run}{pick}/apply_best.tsv"
    conda:
        "../../envs/heretic.yaml"
    resources:
        gpu=1,
    params:
        settings=settings_of("apply_best"),
        model=model_path,
    message:
        "Applying the selected trial to the weights and saving the model"
    script:
        "../../scripts/apply_best.py"


rule save:
    input:
        record=rules.apply_best.output,
        evaluation="results/{run}{pick}/evaluation.json",
        benchmarks=benchmark_files,
        prompts=fingerprint_files,
        chat=rules.find_response_prefix.output[0],
        best=rules.select_best.output,
        phase=phase_of("save"),
    output:
        "results/{run}{pick}/model.manifest.json",
    log:
        "logs/{run}{pick}/save.log",
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=settings_of("save"),
    message:
        "Writing the model card and the manifest of the saved model"
    script:
        "../../scripts/save.py"


rule upload:
    input:
        # With several picks the first is the main result.
        manifest="results/{run}/model.manifest.json",
        phase=phase_of("upload"),
    output:
        "results/{run}/upload.json",
    log:
        "logs/{run}/upload.log",
    conda:
        "../../envs/heretic.yaml"
    params:
        settings=settings_of("upload"),
    message:
        "Uploading the edited model"
    script:
        "../../scripts/upload.py"
