"""WebSocket frames over asyncio streams, by hand: a test has to cut, stall and split them."""

import asyncio
import base64
import hashlib
import json
import struct

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Gone(Exception):
    """The client has closed or lost the connection. The code is that of its close frame, None without one."""

    def __init__(self, code=None):
        super().__init__(f"the client closed the connection ({code})")
        self.code = code


class Request:
    """The head of an HTTP request."""

    def __init__(self, head):
        first, *lines = head.split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines if line)}

    @property
    def upgrades(self):
        return self.headers.get("upgrade", "").lower() == "websocket"

    @property
    def protocols(self):
        return [one.strip() for one in self.headers.get("sec-websocket-protocol", "").split(",") if one.strip()]

    @property
    def token(self):
        """The token, from the header or from the subprotocol that browsers use."""
        bearer = [one.removeprefix("bearer.") for one in self.protocols if one.startswith("bearer.")]
        header = self.headers.get("authorization", "")
        return bearer[0] if bearer else header.removeprefix("Bearer ") or None


class Connection:
    """One connection of a client."""

    def __init__(self, reader, writer, request):
        self.reader, self.writer, self.request = reader, writer, request
        self.frames = asyncio.Queue()
        self.task = None

    async def answer(self, status, body):
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self.writer.write(f"{head}Connection: close\r\n\r\n".encode() + data)
        await self._drained()
        self.writer.close()

    async def accept(self):
        key = self.request.headers["sec-websocket-key"] + GUID
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: keybeat.v1\r\n\r\n".encode()
        )
        await self._drained()
        self.task = asyncio.create_task(self._read())

    async def send(self, text, kind=TEXT, fragments=1):
        data = text.encode()
        size = -(-len(data) // fragments) or 1
        parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        for n, part in enumerate(parts):
            last = n == len(parts) - 1
            self.writer.write(frame(kind if n == 0 else 0, part, last))
        await self._drained()

    async def close(self, code, reason=""):
        """Closes as the daemon does, and waits a moment for the client's answer."""
        self.writer.write(frame(CLOSE, struct.pack("!H", code) + reason.encode()))
        await self._drained()
        try:
            async with asyncio.timeout(1):
                while True:
                    await self.message()
        except (Gone, TimeoutError):
            pass
        self.cut()

    def cut(self):
        """As a reset: without a close."""
        if self.task:
            self.task.cancel()
        self.writer.transport.abort()

    async def message(self):
        """The client's next message."""
        found = await self.frames.get()
        if isinstance(found, Gone):
            self.frames.put_nowait(found)
            raise found
        return found

    async def _drained(self):
        try:
            await self.writer.drain()
        except ConnectionError:
            pass  # the reader notices

    async def _read(self):
        try:
            while True:
                kind, data = await read_frame(self.reader)
                if kind == TEXT:
                    self.frames.put_nowait(data.decode())
                elif kind == PING:
                    self.writer.write(frame(PONG, data))
                elif kind == PONG:
                    self.frames.put_nowait("PONG " + data.decode())
                elif kind == CLOSE:
                    self.frames.put_nowait(Gone(struct.unpack("!H", data[:2])[0] if data else 1005))
                    self.writer.write(frame(CLOSE, data))
                    return self.writer.close()
        except (EOFError, ConnectionError):
            self.frames.put_nowait(Gone())


def frame(kind, data, last=True):
    size = len(data)
    head = bytes([(0x80 if last else 0) | kind])
    if size < 126:
        head += bytes([size])
    elif size < 1 << 16:
        head += bytes([126]) + struct.pack("!H", size)
    else:
        head += bytes([127]) + struct.pack("!Q", size)
    return head + data


async def read_frame(reader, raw=None):
    """Kind and data of the next frame. Its bytes, as they came, are appended to ``raw``."""
    taken = bytearray()

    async def take(count):
        part = await reader.readexactly(count)
        taken.extend(part)
        return part

    first, second = await take(2)
    size = second & 0x7F
    if size == 126:
        size = struct.unpack("!H", await take(2))[0]
    elif size == 127:
        size = struct.unpack("!Q", await take(8))[0]
    mask = await take(4) if second & 0x80 else None
    data = await take(size)
    if raw is not None:
        raw.append(bytes(taken))
    if mask:
        data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    return first & 0x0F, data


async def read_head(reader, raw=None):
    """The head of an HTTP request or answer, without the empty line."""
    head = await reader.readuntil(b"\r\n\r\n")
    if raw is not None:
        raw.append(head)
    return head[:-4].decode("latin-1")
