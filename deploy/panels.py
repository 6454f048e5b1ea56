"""Pieces of dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from string import ascii_uppercase
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

WIDTH, CHART_HEIGHT, FIGURE_HEIGHT = 24, 8, 4
"""Of a row, a chart, and a figure, in Grafana's units."""


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
    ids = count(1)
    for heading, panels in rows.items():
        made.with_row(Row(heading).id(next(ids)))
        for panel in panels:
            made.with_panel(panel.id(next(ids)).span(_width(panels)))
    return made


def _width(panels: Sequence[Panel]) -> int:
    """Of each panel of a row, of 24: figures side by side, charts three abreast, or two where that fills the lines."""
    if isinstance(panels[0], stat.Panel):
        return WIDTH // len(panels)
    return WIDTH // 2 if len(panels) in (2, 4) else WIDTH // 3


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
        .height(FIGURE_HEIGHT)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .color_mode(words.BigValueColorMode.VALUE)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_target(query, "A"))
    )


def chart(title: str, unit: str, *queries: Query, traces: bool = False) -> timeseries.Panel:
    """Lines over time; with traces, the example traces of a histogram as dots."""
    made = (
        timeseries.Panel()
        .title(title)
        .height(CHART_HEIGHT)
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
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        made.with_target(_target(query, letter).exemplar(traces))
    return made


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend)

