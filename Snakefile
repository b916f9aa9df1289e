# Directional ablation of an open-weight language model, from prompts to a proven model.
#
#   results/
#   ├── demo-model/                      the model that the workflow trains itself; with other options
#   │                                    beside it, such as demo-model-qwen3-seed1/
#   └── {run}/
#       ├── .phases/{rule}.json          settings and code that the results of each rule come from
#       ├── prompts/{set}.jsonl          phase 1   load_prompts, check_prompts
#       ├── chat.json                    phase 2a  find_response_prefix
#       ├── template_date.json                     the same, if the chat template prints the date
#       │                                          (state: outlives every run)
#       ├── residuals/{set}.safetensors            extract_residuals, extract_protected_residuals
#       ├── directions.safetensors       phase 2b  compute_directions
#       ├── geometry.csv
#       ├── study.db                     phase 3   optimize (state: outlives every run)
#       ├── trials.csv, study.json
#       ├── finalists.json                         score_finalists
#       ├── best.json                              select_best
#       ├── model/                       phase 4   apply_best
#       ├── evaluation.json, answers.jsonl         evaluate
#       ├── benchmarks.json                        benchmark_original, benchmark (only with benchmarks)
#       ├── model.manifest.json                    save
#       ├── picks/{rule}/                          the same of each further rule of `select`
#       ├── report.html, plots/                    report
#       └── upload.json                            upload (only with upload_to)

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "workflow/rules/runs.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/phase_records.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/directions.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/benchmarks.smk"


rule all:
    default_target: True
    input:
        [target for run in RUNS for target in targets(run)],
    localrule: True
    message:
        "Workflow complete"


onsuccess:
    print(run_summaries(RESULTS, RUNS), flush=True)
