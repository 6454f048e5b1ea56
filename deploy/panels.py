"""Pieces of dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

from deploy.queries import Query

Panel: TypeAlias = timeseries.Panel | stat.Panel

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
"""As deploy/grafana/provisioning has it."""

CHART, FIGURE = (8, 8), (4, 4)
"""Width and height, of 24 in a row."""


def board(name: str, title: str, rows: Mapping[str, Sequence[Panel]], *, of_one_service: bool = False) -> Dashboard:
    """A dashboard of rows of panels; of one service, that is chosen among all."""
    made = (
        Dashboard(f"Meshwright: {title}")
        .uid(f"meshwright-{name}")
        .tags(["meshwright"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
    )
    if of_one_service:
        made.with_variable(_service())
    for heading, panels in rows.items():
        made.with_row(Row(heading))
        for panel in panels:
            made.with_panel(panel)
    return made


def _service() -> QueryVariable:
    return (
        QueryVariable("job")
        .label("Service")
        .query("label_values(rpc_server_call_duration_seconds_count, job)")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def figure(title: str, unit: str, query: Query, *, about: str, bad: float | None = None) -> stat.Panel:
    """One number, red from `bad` on."""
    steps = [Threshold(value=None, color="green")]
    if bad is not None:
        steps.append(Threshold(value=bad, color="red"))
    return (
        stat.Panel()
        .title(title)
        .span(FIGURE[0])
        .height(FIGURE[1])
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .color_mode(words.BigValueColorMode.VALUE)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_target(query))
    )


def chart(title: str, unit: str, *queries: Query, traces: bool = False) -> timeseries.Panel:
    """Lines over time; with traces, the example traces of a histogram as dots."""
    made = (
        timeseries.Panel()
        .title(title)
        .span(CHART[0])
        .height(CHART[1])
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .draw_style(words.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(10)
        .show_points(words.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(words.LegendDisplayMode.LIST)
            .placement(words.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(words.TooltipDisplayMode.MULTI).sort(words.SortOrder.DESCENDING))
    )
    for query in queries:
        made.with_target(_target(query).exemplar(traces))
    return made


def _target(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend)

