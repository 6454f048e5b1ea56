"""The policy of each service that holds now: the last good one while what is published is invalid."""

from __future__ import annotations

import logging

from mesh.contract import Contract
from mesh.errors import InvalidConfig
from mesh.policy import Policy, effective

_log = logging.getLogger(__name__)


class PoliciesInForce:
    """Remembers what it made of which contract, so that a policy is read once and a bad one is said once."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Contract, Policy]] = {}

    def of(self, service: str, contract: Contract) -> Policy:
        """The effective policy; the last good one, or the defaults, while a published one is invalid."""
        held = self._held.get(service)
        if held and (held[0] is contract or held[0] == contract):
            return held[1]
        try:
            made = effective(contract)
        except InvalidConfig as error:
            _log.error("the service config of %s is not in force: %s", service, error.message)
            made = held[1] if held else Policy()
        self._held[service] = contract, made
        return made
