"""One connection: the handshake, the messages, the pings, the renewal of the token."""

from __future__ import annotations

import asyncio
import inspect
import json
import ssl as tls
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from ._backoff import ANSWER_S, RENEW_S, SILENCE_CONNECTING_S, SILENCE_LIVE_S, advice

if TYPE_CHECKING:
    from ._client import Client

SUBPROTOCOL = Subprotocol("keybeat.v1")
#: How the daemon's refusal of a request without a WebSocket handshake begins.
NO_HANDSHAKE = "/v1/ws speaks WebSocket"
#: A snapshot has up to 1,000 users.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: How long the daemon may take to answer the client's close.
GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended, or why there was none."""

    reason: str
    stop: bool = False
    later: bool = False


class Session:
    """See the module's head. A session runs once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._watches = client._watches
        self._socket: ClientConnection | None = None
        self._shown: str | None = None
        #: Whether the writer has something to do.
        self._wanted = asyncio.Event()
        #: The id of the unanswered ping, and of the unanswered `auth`, or 0.
        self._ping_id = self._auth_id = 0
        #: A ping and a token that the writer sends next.
        self._ping_due = False
        self._auth_due: str | None = None
        self._renewal: asyncio.Task[None] | None = None

    @property
    def _renews(self) -> bool:
        return callable(self._client._token)

    # --- life -------------------------------------------------------------------------------------------

    async def run(self) -> End:
        opened = await self._open()
        if isinstance(opened, End):
            return opened
        self._socket = opened
        self._watches.connected()
        self._wanted.set()
        writer = asyncio.create_task(self._write(opened))
        orderly = True
        try:
            end = await self._read(opened)
            orderly = end.stop
            return end
        finally:
            self._socket = None
            tasks = [task for task in (writer, self._renewal) if task]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close(opened, orderly)

    async def _close(self, socket: ClientConnection, orderly: bool) -> None:
        try:
            if orderly:
                async with asyncio.timeout(GOODBYE_S):
                    await socket.close()
        except (TimeoutError, OSError):
            pass
        finally:
            # A dead connection answers no close.
            socket.transport.abort()

    async def _open(self) -> ClientConnection | End:
        try:
            self._shown = await self._token()
        except TimeoutError:
            return End(f"no token is available: the token function took more than {ANSWER_S} s")
        except Exception as why:
            return End(f"no token is available: {why}")
        if self._shown and not _can_be_sent(self._shown):
            reason = "the token cannot be sent: it has spaces, or characters beyond ASCII"
            # A token function may return a better token next time.
            return End(f"no token is available: {reason}") if self._renews else End(f"invalid_token: {reason}", stop=True)
        client = self._client
        # The daemon refuses what is no UTF-8, with a reason.
        query = urlencode(client._query, errors="surrogatepass")
        address = client._url.rstrip("/") + "/v1/ws" + (f"?{query}" if query else "")
        try:
            async with asyncio.timeout(ANSWER_S / client._speed):
                return await connect(
                    "ws" + address.removeprefix("http"),
                    subprotocols=[SUBPROTOCOL],
                    additional_headers={"Authorization": f"Bearer {self._shown}"} if self._shown else None,
                    ssl=client._ssl,
                    compression=None,
                    ping_interval=None,
                    open_timeout=None,
                    max_size=MAX_MESSAGE_BYTES,
                )
        except InvalidStatus as why:
            return self._refused(why.response.status_code, why.response.body)
        except TimeoutError:
            return End("the daemon does not answer")
        except tls.SSLCertVerificationError as why:
            return End(f"the daemon's certificate is not trusted: {why.verify_message}", stop=True)
        except (OSError, InvalidHandshake, EOFError) as why:
            return End(f"no daemon answers: {why}")
        except InvalidURI as why:
            return End(f"the daemon's address is not valid: {why}", stop=True)

    async def _token(self) -> str | None:
        token = self._client._token
        found = token() if callable(token) else token
        if not inspect.isawaitable(found):
            return found
        async with asyncio.timeout(ANSWER_S / self._client._speed):
            return await found

    def _refused(self, status: int, body: bytes | bytearray | None) -> End:
        try:
            error = json.loads(body or b"")["error"]
            reason = f"{error['code']}: {error['message']}"
        except (ValueError, LookupError, TypeError):
            reason = f"the daemon answered {status}"
        # A token function may return a better token soon: this one had just expired, or is not valid yet.
        stop = status == 403 or (status == 401 and not self._renews) or (status == 400 and _refuses_query(reason))
        return End(reason, stop=stop, later=status in (429, 503))

    # --- writing ----------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        self._wanted.set()

    async def send(self, message: dict[str, Any]) -> bool:
        if not self._socket:
            return False
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed:
            return False
        return True

    async def _write(self, socket: ClientConnection) -> None:
        """Sends what is wanted. The reader notices a closed connection."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                for message in self._messages():
                    await socket.send(json.dumps(message))
                self._client._answered()
        except ConnectionClosed:
            pass

    def _messages(self) -> list[dict[str, Any]]:
        messages = self._watches.catch_up()
        if self._auth_due:
            self._auth_id = self._watches.next_id()
            messages.append({"type": "auth", "token": self._auth_due, "id": self._auth_id})
            self._auth_due = None
        if self._ping_due:
            self._ping_due = False
            messages.append({"type": "ping", "id": self._ping_id})
        return messages

    # --- reading ----------------------------------------------------------------------------------------

    async def _read(self, socket: ClientConnection) -> End:
        try:
            while True:
                try:
                    async with asyncio.timeout(self._patience()):
                        text = await socket.recv()
                except TimeoutError:
                    if self._ping_id:
                        return End("the daemon does not answer")
                    self._ping_id = self._watches.next_id()
                    self._ping_due = True
                    self._wanted.set()
                    continue
                if isinstance(text, str) and (end := self._receive(text)):
                    return end
        except ConnectionClosed as why:
            code, reason = (why.rcvd.code, why.rcvd.reason) if why.rcvd else (1006, "the connection was lost")
            return self._closed(code, reason)

    def _patience(self) -> float:
        """How long the daemon may be silent."""
        silence = SILENCE_LIVE_S if self._client.state == "live" else SILENCE_CONNECTING_S
        return (ANSWER_S if self._ping_id else silence) / self._client._speed

    def _closed(self, code: int, reason: str) -> End:
        found = advice(code)
        if found.stop and not (found.renew and self._renews):
            return End(reason or found.stop, stop=True)
        return End(f"the daemon closed the connection ({code}) {reason}".strip(), later=found.later)

    def _receive(self, text: str) -> End | None:
        pinged, self._ping_id = self._ping_id, 0
        self._ping_due = False
        try:
            message = json.loads(text)
            end = self._take(message, pinged) if isinstance(message, dict) else None
        except (ValueError, LookupError, TypeError):
            return None  # a message for newer clients
        self._client._answered()
        return end

    def _take(self, message: dict[str, Any], pinged: int) -> End | None:
        kind = message.get("type")
        if kind == "status":
            self._client._status(message)
        elif kind == "snapshot":
            self._watches.snapshot(message)
        elif kind == "transitions":
            self._watches.transitions(message)
        elif kind == "statuses":
            self._watches.statuses_changed(message)
        elif kind == "members":
            self._watches.members(message)
        elif kind == "occupancy":
            self._watches.occupancy(message)
        elif kind == "token":
            self._token_state(message)
        elif kind == "error":
            return self._error(message, pinged)
        return None

    def _error(self, message: dict[str, Any], pinged: int) -> End | None:
        id = message.get("id")
        # An older daemon does not know `ping`. After a refused `auth`, the next renewal or the close with 4001 follows.
        if id and id in (pinged, self._auth_id):
            return None
        if message.get("code") == "not_ready" and self._watches.asked(id):
            return End(message.get("message", ""), later=True)
        self._watches.error(message)
        return None

    # --- the token --------------------------------------------------------------------------------------

    def _token_state(self, message: dict[str, Any]) -> None:
        if self._renewal:
            self._renewal.cancel()
            self._renewal = None
        if message["state"] == "expiring" and self._renews:
            self._renewal = asyncio.create_task(self._renew(message["expires_ms"]))

    async def _renew(self, expires_ms: int) -> None:
        """Shows a new token. A function that still returns the old one, or whose new token is refused, is called again."""
        while True:
            try:
                token = await self._token()
            except Exception:
                token = None  # none yet
            if token and token != self._shown:
                self._shown = self._auth_due = token
                self._wanted.set()
            least, most = RENEW_S
            wait = min(most, max(least, (expires_ms / 1000 - time.time()) / 2))
            await asyncio.sleep(wait / self._client._speed)


def _refuses_query(reason: str) -> bool:
    """Whether the daemon refused ``user``, ``session`` or ``beat``, as it would on each connection.

    Otherwise the daemon has seen no handshake, for example because a proxy removed its headers.
    """
    refused = reason.startswith(("invalid_user: ", "invalid_session: ", "invalid_request: "))
    return refused and not reason.startswith(f"invalid_request: {NO_HANDSHAKE}")


def _can_be_sent(token: str) -> bool:
    return all(0x21 <= ord(char) <= 0x7E for char in token)
