"""How long one client was behind the catalog. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Propagation:
    """From a change of the catalog to the moment when the client of one stream has taken all that follows from it.

    What a client is told because it asked does not count, nor does what it refuses. Changes that come before it has
    taken the last one count from the first of them.
    """

    _seen: float | None = None
    _since: float | None = None

    def look(self, changed_at: float, *, sent: bool, settled: bool, at: float) -> float | None:
        """Seconds, when the client has just become even with the catalog; all times are on one clock.

        To be called each time that a snapshot of a catalog was looked through: when that changed last, whether
        anything had to be sent, and whether the client has agreed to everything.
        """
        is_new, self._seen = self._seen is not None and changed_at > self._seen, changed_at
        if sent and is_new and self._since is None:
            self._since = changed_at
        if sent or not settled or self._since is None:
            return None
        since, self._since = self._since, None
        return at - since

    def refuse(self) -> None:
        """The client said no."""
        self._since = None
