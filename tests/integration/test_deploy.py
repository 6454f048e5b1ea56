"""What Prometheus, Alertmanager and Grafana are given holds together; of the first two, by their own tools."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.errors import FAULTS, Code
from mesh.tracing import SERVER_FAULTS
from tests.debian import AMTOOL, PROMTOOL
from tests.fixtures.prometheus import program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
PROMETHEUS_OWN = {"up", "ALERTS"}

_WORDS = {"and", "or", "unless", "by", "bool", "offset", "ignoring", "on", "without", "group_left"}


def rules() -> list[dict[str, Any]]:
    """All alert rules."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries(board: Path) -> list[str]:
    """All expressions of a dashboard."""
    panels = json.loads(board.read_text())["panels"]
    every = [*panels, *(inner for panel in panels for inner in panel.get("panels", ()))]
    return [target["expr"] for panel in every for target in panel.get("targets", ())]


def named(expr: str) -> set[str]:
    """The metrics in an expression: what is left of its words without labels, functions and numbers."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|ignoring|without) \([^)]*\)|\boffset \w+", " ", expr)
    return {word for word, call in re.findall(r"\b([A-Za-z_]\w*)\b(\s*\()?", bare) if not call} - _WORDS


def documented() -> set[str]:
    """Names of series that docs/metrics.md tells of, and those that prometheus_client has in each process."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    parts = {"histogram": ("_bucket", "_count", "_sum")}
    return {f"{name}{part}" for name, kind in rows for part in parts.get(kind, ("",))}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_dashboards_ask_for_what_there_is_in_words_that_prometheus_knows(board: Path, tmp_path: Path) -> None:
    found = queries(board)
    assert found
    for expr in found:
        unknown = {name for name in named(expr) if not name.startswith(("process_", "python_"))}
        assert unknown <= documented() | PROMETHEUS_OWN, expr
    plain = [expr.replace("$__rate_interval", "1m").replace("$job", "order") for expr in found]
    recorded = [{"record": f"one:number{number}", "expr": expr} for number, expr in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": recorded}]}))
    tool(PROMTOOL, "check", "rules", tmp_path / "rules.yml")


def test_dashboards_are_as_the_code_makes_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.dashboards", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_dashboards_use_the_sources_that_are_provisioned() -> None:
    told = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/meshwright.yml").read_text())
    known = {source["uid"] for source in told["datasources"]}
    for board in BOARDS:
        used = set(re.findall(r'"datasource": \{\s*"type": "\w+",\s*"uid": "(\w+)"', board.read_text()))
        assert used
        assert used <= known


def test_alerts_are_about_what_there_is_and_lead_to_a_page_that_there_is() -> None:
    found = rules()
    assert found
    for rule in found:
        assert named(rule["expr"]) <= documented() | PROMETHEUS_OWN, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        page, _, part = rule["annotations"]["runbook"].partition("#")
        assert part in anchors(ROOT / page)


def test_alerts_blame_for_the_codes_that_are_no_callers_fault() -> None:
    blamed = re.findall(r'status_code=~"([^"]*)"', RULES.read_text())
    assert [set(codes.split("|")) for codes in blamed] == [{code.name for code in FAULTS}] * 2
    assert {Code.RESOURCE_EXHAUSTED} == FAULTS - SERVER_FAULTS


def anchors(page: Path) -> set[str]:
    """What links into a page may name: its headings, as GitHub has them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_alert_is_tried_where_it_fires_and_where_it_does_not() -> None:
    fires: defaultdict[str, set[bool]] = defaultdict(set)
    for case in yaml.safe_load(RULES.with_name("rules_test.yml").read_text())["tests"]:
        for look in case["alert_rule_test"]:
            fires[look["alertname"]].add(bool(look["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in rules()}
    tool(PROMTOOL, "test", "rules", RULES.with_name("rules_test.yml"))


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    tool(PROMTOOL, "check", "config", RULES.with_name("prometheus.yml"))
    consul = RULES.with_name("prometheus-consul.yml").read_text()
    (tmp_path / "rules.yml").write_text(RULES.read_text())
    # Debian's promtool is built without Consul discovery; all else of it can be judged.
    known = re.sub(r"consul_sd_configs:\n( +- server: .*\n.*\n)+", "file_sd_configs: [{files: [x.json]}]\n", consul)
    assert known != consul
    (tmp_path / "prometheus.yml").write_text(known)
    tool(PROMTOOL, "check", "config", tmp_path / "prometheus.yml")


def test_alertmanager_takes_its_configuration_and_routes_by_severity() -> None:
    file = DEPLOY / "alertmanager" / "alertmanager.yml"
    tool(AMTOOL, "check-config", file)
    for severity in ("page", "ticket"):
        route = tool(AMTOOL, "config", "routes", "test", f"--config.file={file}", f"severity={severity}")
        assert route == f"{severity}\n"


def tool(tool: Any, *words: object) -> str:
    """What a tool prints; it must be content."""
    done = subprocess.run(
        [program(tool), *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
