"""The figure of a trial's time by stage."""

import plotly.graph_objects as go

from heretic.report.chart import BLUE, GREEN, GREY, ORANGE, PURPLE, Chart, bare_figure
from heretic.report.reading import Run
from heretic.stages import mean_seconds

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
