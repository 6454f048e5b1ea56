"""Settings of the services: all problems at once, and no secret in sight."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mesh import InvalidConfig
from services.order.__main__ import settings as order_settings
from services.settings import RedisSettings
from services.status.__main__ import settings as status_settings
from services.sync.__main__ import settings as sync_settings

GOOD = {"DATABASE_URL": "postgresql://app:hunter2@/app?host=/run", "REDIS_URL": "redis://:hunter2@127.0.0.1"}


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(InvalidConfig) as caught:
        sync_settings({"DATABASE_URL": "mysql://x", "SCIM_URL": "ftp://x", "SCIM_PAGE_SIZE": "0", "PORT": "x"})
    found = caught.value.message
    assert all(name in found for name in ("DATABASE_URL", "REDIS_URL", "SCIM_URL", "SCIM_PAGE_SIZE", "PORT"))


def test_no_secret_shows_in_a_repr_or_a_problem() -> None:
    shown = repr(sync_settings(GOOD | {"SCIM_URL": "https://idp.example", "SCIM_TOKEN": "hunter2"}))
    assert "hunter2" not in shown
    with pytest.raises(InvalidConfig) as caught:
        order_settings({**GOOD, "DATABASE_URL": "mysql://app:hunter2@x/y"})
    assert "hunter2" not in caught.value.message


def test_providers_have_their_own_places_tokens_and_limits() -> None:
    environ = GOOD | {
        "SCIM_PROVIDERS": "scim, corp-eu,partners", "SCIM_URL": "http://one.example/v2", "SCIM_TOKEN": "one",
        "SCIM_PAGE_SIZE": "50", "SCIM_CORP_EU_URL": "https://two.example", "SCIM_CORP_EU_TOKEN": "two",
        "SCIM_PARTNERS_URL": "https://three.example", "SCIM_PARTNERS_PAGE_SIZE": "7",
    }  # fmt: skip
    found = sync_settings(environ).providers
    assert [(one.name, one.url, one.token, one.page_size) for one in found] == [
        ("scim", "http://one.example/v2", "one", 50), ("corp-eu", "https://two.example", "two", 50),
        ("partners", "https://three.example", "", 7),
    ]  # fmt: skip
    moved = sync_settings(environ | {"SCIM_SCIM_URL": "https://other.example"}).providers[0]
    assert (moved.url, moved.token) == ("https://other.example", ""), "a token stays with its URL"
    assert not sync_settings(GOOD).providers


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"SCIM_PROVIDERS": "corp"}, "SCIM_URL is missing"),
        ({"SCIM_PROVIDERS": "a,b", "SCIM_URL": "http://x"}, "SCIM_B_URL is missing"),
        ({"SCIM_PROVIDERS": "A B", "SCIM_URL": "http://x"}, "is no name"),
        ({"SCIM_PROVIDERS": "a,a", "SCIM_URL": "http://x", "SCIM_A_URL": "http://x"}, "each once"),
        ({"SCIM_URL": "http://me:hunter2@x"}, "must have no user"),
        ({"SCIM_URL": "http://x:y/"}, "must begin with"),
        ({"SCIM_URL": "https:///v2"}, "and a host"),
        ({"SCIM_URL": "http://x", "SCIM_TOKEN": "hunter2\nX: y"}, "no bearer token"),
        ({"SCIM_URL": "http://x", "SCIM_VANISH_LIMIT": "2"}, "SCIM_VANISH_LIMIT"),
    ],
)
def test_what_cannot_be_a_provider_is_refused_without_showing_secrets(wrong: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        sync_settings(GOOD | wrong)
    assert problem in caught.value.message
    assert "hunter2" not in caught.value.message


def test_the_settings_of_the_workers_are_bounded_and_reported_together() -> None:
    found = order_settings(GOOD | {"ORDER_WORKERS": "0", "ORDER_ATTEMPTS": "3", "ORDER_WORK_DELAY_SECONDS": "0"}).work
    assert (found.workers, found.attempts.limit, found.delay_seconds) == (0, 3, 0)
    wrong = {"ORDER_WORKERS": "-1", "ORDER_LEASE_SECONDS": "x", "ORDER_ATTEMPTS": "0", "ORDER_BATCH_SIZE": "1001",
             "ORDER_WORK_DELAY_SECONDS": "-1", "ORDER_GRACE_SECONDS": "soon"}  # fmt: skip
    with pytest.raises(InvalidConfig) as caught:
        order_settings(GOOD | wrong)
    assert [problem.partition("=")[0] for problem in caught.value.message.splitlines()] == [
        "ORDER_WORKERS", "ORDER_BATCH_SIZE", "ORDER_LEASE_SECONDS", "ORDER_WORK_DELAY_SECONDS", "ORDER_GRACE_SECONDS",
        "ORDER_ATTEMPTS",
    ]  # fmt: skip


def test_copies_of_users_and_consumers_are_bounded_and_reported_together() -> None:
    found = sync_settings(GOOD | {"USER_CACHE_SECONDS": "60", "EVENTS_DELIVERIES": "3"})
    assert (found.cache.keep_seconds, found.cache.missing_seconds, found.consumer.deliveries) == (60, 5, 3)
    wrong = {"USER_CACHE_SECONDS": "0", "USER_CACHE_MISSING_SECONDS": "x", "EVENTS_CLAIM_SECONDS": "0",
             "EVENTS_DELIVERIES": "0"}  # fmt: skip
    with pytest.raises(InvalidConfig) as caught:
        sync_settings(GOOD | wrong)
    assert [problem.partition("=")[0] for problem in caught.value.message.splitlines()] == list(wrong)


def test_the_status_service_reports_problems_of_the_registry_too() -> None:
    with pytest.raises(InvalidConfig, match=r"(?s)DATABASE_URL.*CONSUL_HTTP_ADDR"):
        status_settings({"CONSUL_HTTP_ADDR": "unix:///x", "REDIS_URL": GOOD["REDIS_URL"]})


def test_the_instance_id_names_the_worker() -> None:
    found = order_settings(GOOD | {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=order-7"})
    assert found.service.instance == "order-7"


def test_a_worker_without_an_instance_id_is_told_from_others_all_the_same() -> None:
    one, other = (order_settings(GOOD).service.instance for _ in range(2))
    assert one
    assert one != other


def test_a_process_with_bad_settings_says_why_and_exits_with_2() -> None:
    done = subprocess.run([sys.executable, "-m", "services.order"], capture_output=True, text=True, env={}, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["DATABASE_URL is missing", "REDIS_URL is missing"]


def test_times_of_tasks_are_checked_with_all_else() -> None:
    crons = {"SYNC_CRON": "61 * * * *", "CLEAN_UP_CRON": "0 0 31 2 *", "TASK_CONCURRENCY": "0"}
    with pytest.raises(InvalidConfig, match=r"(?s)REDIS_URL.*SYNC_CRON.*bad minute.*CLEAN_UP_CRON.*TASK_CONCURRENCY"):
        status_settings({"DATABASE_URL": GOOD["DATABASE_URL"], **crons})


def test_an_empty_cron_expression_turns_a_task_off_and_an_absent_one_does_not() -> None:
    tasks = status_settings(GOOD | {"SYNC_CRON": "", "TASK_RETENTION_DAYS": "0.5"}).tasks
    assert tasks.sync is None
    assert tasks.clean_up is not None
    assert tasks.retention.total_seconds() == 12 * 3600


@pytest.mark.parametrize(
    ("url", "is_public"),
    [
        ("unix:///run/valkey.sock?db=0", True), ("redis://host:6379", True), ("redis://:hunter2@host", False),
        ("unix:///run/valkey.sock?password=hunter2", False),
    ],
)  # fmt: skip
def test_where_redis_is_may_be_told_but_for_a_password(url: str, is_public: bool) -> None:
    assert RedisSettings(url=url).public_url == (url if is_public else "")
