"""Fixtures of the services' tests; imported here, so that no other test pays for it."""

from __future__ import annotations

from tests.fixtures.services import database_settings, scim_connect, scim_url, stored, syncing

__all__ = ["database_settings", "scim_connect", "scim_url", "stored", "syncing"]
