"""The report's figures, each defined once as a plotly figure: the page shows it, and `static`
draws the files from the same definition.
"""

from heretic.report.chart import Chart
from heretic.report.layer_figures import clouds, layer_profile, separation
from heretic.report.projection import project, separating_layer
from heretic.report.reading import Run
from heretic.report.search_figures import history, pareto


def draw_all(run: Run) -> tuple[Chart, ...]:
    """Every figure of the report, in the order in which the page shows them.

    Raises:
        HereticError: residuals or directions are missing, damaged or of different widths.
    """
    plane = project(run.folder, separating_layer(run.geometry))
    return pareto(run), history(run), layer_profile(run), separation(run), clouds(plane)
