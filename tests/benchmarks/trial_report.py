"""The lines that the benchmark of trials prints, and whether the scores of two ways agree."""

import math
from collections.abc import Sequence

import torch

from benchmarks.floors import Rates, floor_of, measure_rates, restore_and_ablate, sizes_of
from benchmarks.trial_work import Measured, Score, Work, as_prompts
from heretic.ablation.directions import AblationDirections
from heretic.ablation.editors import make_editor
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import plan_edits
from heretic.ablation.weight_editor import WeightEditor
from heretic.model.loading import Model
from heretic.model.memory import GIGABYTE, PeakMemory
from heretic.search.search_space import SHORT_NAMES
from heretic.timing import STAGES

COLUMNS = tuple(stage for stage in STAGES if stage != "sampler")  # which is timed by itself
STUDY_TRIALS = 200
# Sums in another order; the divergences themselves reach from nothing to several nats.
RELATIVE, ABSOLUTE = 1e-2, 1e-4
# Of the matrices and the copy that the rates of a device are measured with.
SIDES, COPIED_BYTES = {"cpu": 512, "cuda": 8192}, {"cpu": 2**24, "cuda": 2**32}


def heading(work: Work, model: Model) -> str:
    """What all ways work on."""
    on_gpu = work.device.type == "cuda"
    chip = torch.cuda.get_device_name(work.device) if on_gpu else "the CPU"
    texts, lengths = work.texts, prompt_lengths(work, model)
    return (
        f"{model.network.num_parameters() / 1e6:.1f} M parameters in {work.dtype_name} on {chip}, "
        f"{len(texts.good)} + {len(texts.bad)} prompts of {min(lengths)} to {max(lengths)} tokens "
        f"(mean {sum(lengths) / len(lengths):.0f}), answers of {work.tokens}, batches of "
        f"{work.batch_size}"
    )


def prompt_lengths(work: Work, model: Model) -> list[int]:
    """Tokens of each prompt that is answered."""
    prompts = as_prompts((*work.texts.good, *work.texts.bad))
    return [len(ids) for ids in model.chat.encode(prompts)]


def row(found: Measured | None) -> str:
    """One line of the table; without a result the names of its columns."""
    if found is None:
        cells = "".join(f"{name:>10}" for name in (*COLUMNS, "total"))
        return f"{'seconds':16}{cells}{'trials/s':>10}{'refused':>9}"
    cells = "".join(f"{found.seconds[name]:10.4f}" for name in COLUMNS)
    return f"{found.way:16}{cells}{found.total:10.4f}{1 / found.total:10.3f}{found.refused:9.0%}"


def agreement(ours: Sequence[Score], plain: Sequence[Score], *, exact: bool) -> str:
    """How far scores of the same trials are apart.

    Kernels in bfloat16 depend on the size of a batch and may decide near-ties differently, so
    that only where `exact` is set are other scores an error.
    """
    pairs = list(zip(ours, plain, strict=False))
    far = [
        (a, b) for a, b in pairs if not math.isclose(a.kl, b.kl, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    ]
    other = [
        (a, b) for a, b in pairs if (a.refusals, a.false_refusals) != (b.refusals, b.false_refusals)
    ]
    if exact and (far or other):
        raise SystemExit(f"ours and the plain loop score otherwise: {[*far, *other]}")
    furthest = max(abs(a.kl - b.kl) for a, b in pairs)
    largest = max(b.kl for _, b in pairs)
    return (
        f"the plain loop's scores of {len(pairs)} trials: KL within {furthest:.1e} of ours, which "
        f"reach {largest:.2g} nats, refusals of {len(other)} others"
    )


def sampler_line(found: Measured, asking: float) -> str:
    """Asking for a trial beside running it, and how long a search takes."""
    minutes = STUDY_TRIALS * (found.total + asking) / 60
    return (
        f"sampler: {asking:.4f} s a trial after {STUDY_TRIALS} trials, {asking / found.total:.1%} "
        f"of one of ours; {STUDY_TRIALS} trials of ours: {minutes:.1f} minutes"
    )


def memory_line(found: Measured, model: Model, peak: PeakMemory) -> str:
    """The peak, beside what is there all the time where that can be told."""
    if found.rest_bytes is None or found.peak_bytes is None:
        return f"memory: at most {peak} up to here, with all that it imported and made"
    weights = sum(parameter.nbytes for parameter in model.network.parameters())
    model_gb, rest, most = (n / GIGABYTE for n in (weights, found.rest_bytes, found.peak_bytes))
    return (
        f"memory: model {model_gb:.2f} GB, with caches {rest:.2f} GB, peak {most:.2f} GB, which is "
        f"{most / rest:.2f} of model and caches"
    )


def measured_rates(work: Work) -> Rates:
    """What the device is capable of."""
    kind = work.device.type
    return measure_rates(work.device, work.dtype, SIDES[kind], COPIED_BYTES[kind])


def floors_line(found: Measured, model: Model, work: Work, rates: Rates, in_flight: int) -> str:
    """Our trial beside what the device's rates allow."""
    lengths = prompt_lengths(work, model)
    batches = math.ceil(len(lengths) * in_flight / work.batch_size) / in_flight
    floor = floor_of(sizes_of(model), rates, lengths, work.tokens, batches)
    return (
        f"floors: {rates.operations / 1e12:.3g} T operations/s, {rates.bandwidth / 1e12:.3g} TB/s; "
        f"prefill {floor.prefill:.3g} s, decode {floor.decode:.3g} s; ours takes "
        f"{found.total / floor.total:.2f} times their sum"
    )


def edit_line(model: Model, directions: AblationDirections, rates: Rates) -> str:
    """The edit of all matrices, each along its layer's own direction, beside a copy."""
    editor = make_editor(model, "weights", "none", "true", "auto")
    assert isinstance(editor, WeightEditor)
    everywhere = dict.fromkeys(SHORT_NAMES, ComponentParameters(0.0, 1.0, 1.0))
    parameters = AblationParameters("per_layer", None, everywhere)
    moved, taken = restore_and_ablate(editor, plan_edits(parameters, directions, model.anatomy))
    return (
        f"restore and ablate: {moved / GIGABYTE:.3g} GB in {taken:.3g} s, "
        f"{moved / taken / rates.bandwidth:.0%} of the bandwidth of a copy"
    )
