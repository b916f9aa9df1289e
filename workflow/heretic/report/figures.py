"""The report's figures, each defined once as a plotly figure.

The page shows that figure, and `static` draws the files from the same definition.
"""

from heretic.report.chart import Chart
from heretic.report.cloud_figures import all_layers, one_layer
from heretic.report.embedding import Method
from heretic.report.layer_figures import clouds_by_layer, layer_profile, separation
from heretic.report.projection import project
from heretic.report.reading import Run
from heretic.report.search_figures import history, pareto
from heretic.report.states import open_states
from heretic.report.time_figure import seconds_by_stage
from heretic.report.trust_figures import agreement, angles, rotation


def draw_all(run: Run, projection: Method = "pca") -> tuple[Chart, ...]:
    """Return all figures of the report, in the order of the page.

    Raises:
        HereticError: Residuals or directions are missing, damaged or of different widths, or
            the package for the projection is missing.
    """
    states = open_states(run.folder, len(run.geometry["layer"]))
    planes = list(project(states, projection))
    charts = (
        pareto(run),
        history(run),
        seconds_by_stage(run),
        layer_profile(run),
        separation(run),
        one_layer(planes, run.geometry),
        all_layers(planes, run.geometry),
        agreement(run),
        angles(run),
        rotation(states.directions),
        clouds_by_layer(run),
    )
    return tuple(chart for chart in charts if chart is not None)
