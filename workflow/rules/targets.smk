# All artifacts of a run.

RUN_RULES = (
    *("check_prompts", "find_response_prefix", "extract_residuals"),
    *("compute_directions", "optimize", "report"),
)
PICK_RULES = ("score_finalists", "select_best", "apply_best", "evaluate", "save")


def outputs_of(names, **wildcards):
    """Return all outputs of some rules, for each value of their wildcards."""
    return [
        path
        for name in names
        for path in expand(map(str, getattr(rules, name).output), **wildcards)
    ]


def targets(run):
    """Return all artifacts of a run.

    Intermediate ones are included: a killed job leaves none of its outputs, and Snakemake would not
    detect that as long as older final results exist.
    """
    settings, picks = RUNS[run], list(RUNS[run].picks())
    used = list(settings.prompt_sources())
    protected = [name for name in used if name in OPTIONAL_SETS]
    scored = ["benchmark"] if settings.benchmarks else []
    return [
        *([DEMO_MANIFEST] if settings.model == DEMO else []),
        *outputs_of(["load_prompts"], run=run, prompts=used),
        *outputs_of(["extract_protected_residuals"], run=run, prompts=protected),
        *outputs_of(RUN_RULES, run=run),
        *outputs_of(["benchmark_original"] if scored else [], run=run),
        *outputs_of([*PICK_RULES, *scored], run=run, pick=picks),
        *outputs_of(["upload"] if settings.upload_to else [], run=run),
    ]
