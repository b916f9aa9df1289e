"""Figures of the search: objectives of all trials, their history, and seconds by stage."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from heretic.evaluation.number_format import nats, short
from heretic.report.chart import (
    BLUE,
    CROSS,
    DIAMOND,
    GREEN,
    GREY,
    LARGEST_KL,
    ORANGE,
    PURPLE,
    SMALLEST_KL,
    STAR,
    Chart,
    bare_figure,
    count_axis,
    figure,
    kl_axis,
    on_log_axis,
)
from heretic.report.run_reader import Run, Trial
from heretic.timing import mean_seconds

LEAST_SHARE = 0.01  # for a separate slice
OTHER = "other"
# Color and pattern by stage; no two adjacent stages share a color.
LOOKS = {
    "sampler": (BLUE, "/"),
    "restore": (PURPLE, ""),
    "edit": (ORANGE, ""),
    "prefill": (GREEN, ""),
    "decode": (BLUE, ""),
    "overhead": (GREY, ""),
    OTHER: (GREY, "x"),
}


def pareto(run: Run) -> Chart:
    """Plot refusals against KL of all trials, with front, selected trial and original."""
    done, over = _complete(run), _infeasible(run)
    front = sorted((t for t in done if t.on_front), key=lambda t: (t.kl, t.value))
    fig = figure(
        f"{run.objective.partition(' (')[0]} against damage, by trial",
        "First-token KL (nats, log scale)",
        {run.objective: value_axis(run, above=0.16)},
        460,
    )
    axis = kl_axis([t.kl for t in done + over if t.kl is not None])
    fig.update_xaxes(axis)
    _add_lines(fig, front, [10**end for end in axis["range"]], run.baseline)
    rest = [t for t in done if not t.on_front]
    chosen = [t for t in done if t.number == run.best.trial]
    _add_trials(fig, rest, "trial", {"symbol": "circle-open", "color": GREY, "size": 8})
    _add_trials(fig, front, "on the front", {"symbol": "circle", "color": BLUE, "size": 9})
    if over:
        _add_trials(fig, over, "infeasible (not evaluated further)", CROSS, top=1.09 * run.largest)
    picked = {pick.best.trial for pick in run.further_picks}
    if picked:
        _add_trials(fig, [t for t in done if t.number in picked], "further picks", DIAMOND)
    _add_trials(fig, chosen, "chosen", STAR)
    return Chart(
        "pareto",
        fig,
        f"{_read_as(run)}; prompts are those of the search, not the held-out ones. Unanswered: "
        "refused, or an empty, looping or off-script response. Trials that exceed a limit, such as "
        "the KL limit, are infeasible: no responses were generated, so they are drawn above the "
        f"scale; a KL outside {SMALLEST_KL:g} to {LARGEST_KL:g} is drawn at the edge."
        f"{_agreement(run)} Selected: trial "
        f"{run.best.trial} ({run.best.selection}). Hover over a trial for its parameters.",
        f"Scatter plot of {len(done)} complete and {len(over)} infeasible trials; "
        f"{len(front)} are on the Pareto front. {_describe(run)}",
    )


def _agreement(run: Run) -> str:
    """Describe how well the first token alone predicts the refusals of trials."""
    correlation = run.agreement.get("spearman")
    if correlation is None:
        return ""
    return (
        f" Refusal log-odds of the first token and refusals have a rank correlation of "
        f"{correlation:.2f} over {run.agreement['trials']} trials with responses."
    )


def _read_as(run: Run) -> str:
    """Explain the axes and the objectives of the front."""
    if set(run.objectives) <= {"kl_first_token", "unanswered"}:
        return "Lower is better on both axes"
    return f"The front covers all objectives ({', '.join(run.objectives)})"


def value_axis(run: Run, above: float = 0.05) -> dict[str, Any]:
    """Return the axis of the objective plotted against the KL."""
    if run.counts:
        return count_axis(round(run.largest), above)
    values = [trial.value for trial in run.trials if trial.value is not None]
    low, high = min([*values, run.baseline]), run.largest
    room = (high - low) or 1.0
    return {"range": [low - 0.05 * room, high + above * room]}


def _complete(run: Run) -> list[Trial]:
    return [t for t in run.trials if t.feasible and t.kl is not None and t.value is not None]


def _infeasible(run: Run) -> list[Trial]:
    return [t for t in run.trials if not t.feasible and t.kl is not None]


def _add_lines(fig: go.Figure, front: Sequence[Trial], ends: list[float], before: float) -> None:
    fig.add_scatter(
        x=ends, y=[before, before], mode="lines", name="original model", hoverinfo="skip",
        line={"color": GREY, "dash": "dot", "width": 1.5},
    )  # fmt: skip
    fig.add_scatter(
        **_places(front), mode="lines", name="Pareto front", hoverinfo="skip",
        line={"color": BLUE, "width": 2, "shape": "hv"},
    )  # fmt: skip


def _places(trials: Sequence[Trial], top: float = 0.0) -> dict[str, list[float]]:
    return {
        "x": [_drawn_kl(t) for t in trials],
        "y": [top if t.value is None else t.value for t in trials],
    }


def _add_trials(
    fig: go.Figure, trials: Sequence[Trial], name: str, marker: dict[str, Any], top: float = 0.0
) -> None:
    fig.add_scatter(
        **_places(trials, top), mode="markers", name=name, marker=marker,
        text=[_hover(trial) for trial in trials], hoverinfo="text",
    )  # fmt: skip


def _hover(trial: Trial) -> str:
    lines = [f"<b>Trial {trial.number}</b>", f"KL {nats(trial.kl or 0.0)} nats"]
    if not trial.feasible:
        lines.append(f"infeasible ({trial.infeasible_because}), not evaluated further")
    others = {name: value for name, value in trial.scores.items() if name != "kl_first_token"}
    lines += [f"{name}: {value:g}" for name, value in others.items()]
    return "<br>".join(lines + [f"{k}: {short(v)}" for k, v in trial.parameters.items()])


def _describe(run: Run) -> str:
    chosen = run.chosen()
    return (
        f"The selected trial {chosen.number} has KL {nats(chosen.kl or 0.0)} nats and leaves "
        f"{chosen.value or 0:g} where the original has {run.baseline:g}: "
        f"{run.objective[0].lower()}{run.objective[1:]}."
    )


def history(run: Run) -> Chart:
    """Plot both objectives by trial, with the best so far and the selected trial."""
    done, over = _complete(run), _infeasible(run)
    panels = {
        "KL (nats, log)": kl_axis([t.kl for t in done + over if t.kl is not None]),
        run.objective: value_axis(run),
    }
    fig = figure("Search history", "Trial", panels, 520)
    if over:
        _add_numbered(fig, "y", over, [_drawn_kl(t) for t in over], "infeasible", CROSS)
    chosen = [run.chosen()]
    ring = {"symbol": "circle-open", "color": GREY, "size": 7}
    best_of = max if run.maximized else min
    for axis, value, better in (("y", _drawn_kl, min), ("y2", _drawn_count, best_of)):
        values = [value(t) for t in done]
        _add_numbered(fig, axis, done, values, "trial", ring)
        fig.add_scatter(
            x=[t.number for t in done], y=list(accumulate(values, better)), mode="lines",
            name="best so far", line={"color": BLUE, "width": 2, "shape": "hv"},
            yaxis=axis, showlegend=axis == "y", hoverinfo="skip",
        )  # fmt: skip
        _add_numbered(fig, axis, chosen, [value(t) for t in chosen], "chosen", STAR)
    return Chart(
        "history",
        fig,
        "Each objective alone is easy to improve, so the two lines are bounds that no single trial "
        "needs to reach together.",
        f"Two panels over the trial number: KL and the other objective of "
        f"{len(done + over)} trials, with the best value so far. {_describe(run)}",
    )


def _drawn_kl(trial: Trial) -> float:
    return on_log_axis(trial.kl or 0.0)


def _drawn_count(trial: Trial) -> float:
    return trial.value or 0.0


def _add_numbered(
    fig: go.Figure,
    axis: str,
    trials: Sequence[Trial],
    values: Sequence[float],
    name: str,
    marker: dict[str, Any],
) -> None:
    fig.add_scatter(
        x=[t.number for t in trials], y=list(values), mode="markers", name=name, marker=marker,
        text=[_hover(trial) for trial in trials], hoverinfo="text",
        yaxis=axis, showlegend=axis == "y",
    )  # fmt: skip


def seconds_by_stage(run: Run) -> Chart | None:
    """Plot the mean seconds of a feasible trial by stage; None if they were not recorded."""
    readings = [trial.stages for trial in run.trials if trial.feasible and trial.stages]
    means = mean_seconds(readings)
    total = sum(means.values())
    if not total > 0:
        return None
    slices = _slices(means, total)
    labels = {
        name: f"{name}: {seconds:.3g} s, {_percent(seconds / total)}"
        for name, seconds in slices.items()
    }
    fig = bare_figure("Time per trial", 380)
    fig.update_layout(showlegend=False, margin={"l": 14, "r": 14, "t": 40, "b": 40})
    fig.add_trace(
        go.Pie(
            labels=list(slices), values=list(slices.values()), text=list(labels.values()),
            textinfo="text", textposition="outside", hoverinfo="text", automargin=True,
            sort=False, direction="clockwise", textfont={"color": GREY},
            marker={
                "colors": [LOOKS[name][0] for name in slices],
                "pattern": {"shape": [LOOKS[name][1] for name in slices]},
            },
        )
    )  # fmt: skip
    small = f'; stages below {_percent(LEAST_SHARE)} are "{OTHER}"' if OTHER in slices else ""
    return Chart(
        "stages",
        fig,
        f"Mean over {len(readings)} feasible trials, {total:.3g} s each{_engine(run)}{small}. "
        "Prefill runs the prompts through the model and computes the divergence, decode generates "
        "the responses; edit and restore change the model and revert it; the sampler proposes the "
        "trial; overhead is the rest.",
        f"Pie chart of a trial's mean time: {'; '.join(labels.values())}; {total:.3g} s in total.",
    )


def _slices(means: dict[str, float], total: float) -> dict[str, float]:
    """Return the seconds by stage, combining small ones at the end."""
    slices = {name: s for name, s in means.items() if s >= LEAST_SHARE * total}
    rest = total - sum(slices.values())
    return {**slices, OTHER: rest} if len(slices) < len(means) and rest > 0 else slices


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= LEAST_SHARE else f"{100 * share:.1f}%"


def _engine(run: Run) -> str:
    """Describe the engine and the batching of trials."""
    name, in_flight = run.engine.get("name"), run.engine.get("trial_batch_size")
    told = f" with the engine {name}" if name else ""
    if in_flight == 1:
        return f"{told}, one trial at a time"
    return f"{told}, up to {in_flight} trials per batch" if in_flight else told
