"""When to reconnect, to ping and to ask for a newer token. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass

#: The shortest and the longest wait. The upper bound doubles with each attempt; each wait is drawn at random below it.
LEAST_S, MOST_S = 0.25, 15.0
#: A connection that stayed live for this long resets the backoff.
HELD_S = 10.0
#: Doublings after which the upper bound is the longest wait.
LONGEST = 30

#: After this much silence the client pings: until all snapshots have come, and later.
SILENCE_CONNECTING_S, SILENCE_LIVE_S = 15.0, 45.0
#: How long the daemon may take to open the socket, and to answer a ping.
ANSWER_S = 15.0
#: The shortest and the longest wait until the client calls a token function again that still returns the old token.
RENEW_S = (1.0, 15.0)


@dataclass(frozen=True, slots=True)
class Advice:
    """The advice of a close code."""

    #: The client stops, unless it has a source of new tokens and ``renew`` holds.
    stop: str = ""
    renew: bool = False
    #: The client waits for a time from the full range.
    later: bool = False


_ADVICE = {
    1009: Advice(stop="too_big: a message was longer than the daemon allows"),
    1013: Advice(later=True),
    4001: Advice(stop="token_expired: a new token is needed", renew=True),
    4003: Advice(stop="forbidden: the token does not allow this"),
    4029: Advice(later=True),
}


def advice(code: int) -> Advice:
    """The advice of a close code. An unknown code means: reconnect, with backoff."""
    return _ADVICE.get(code, Advice())


class Backoff:
    """How many attempts failed in a row."""

    def __init__(self) -> None:
        self._attempt = 0
        self._live_from: float | None = None

    def live(self, now: float) -> None:
        """The connection is live."""
        self._live_from = now

    def wait(self, now: float, later: bool, drawn: float) -> float:
        """How long to wait after a connection that ended at ``now``. ``drawn`` is a random number from 0 to 1."""
        if self._live_from is not None and now - self._live_from > HELD_S:
            self._attempt = 0
        self._live_from = None
        self._attempt = LONGEST if later else min(self._attempt + 1, LONGEST)
        ceiling = min(MOST_S, LEAST_S * 2.0**self._attempt)
        return LEAST_S + drawn * (ceiling - LEAST_S)
