"""The two transports of the client contract, as an outside Python program sees them.

Both classes have the same face: `open(url)`, `send(text)`, `receive()` (the next frame's text, None at the end),
`leave()`, `end()`, and `close_code` (None where the transport shows none).
"""
import asyncio
import hashlib
import ssl
import struct
from urllib.parse import urlsplit

import websockets
from aioquic.asyncio.client import connect as quic_connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, StreamDataReceived, StreamReset
from cryptography.hazmat.primitives.serialization import Encoding

LARGEST_FRAME = 1 << 20


class WebSocket:
    def __init__(self):
        self.close_code = None

    async def open(self, region):
        self.socket = await websockets.connect(region["ws"], max_size=LARGEST_FRAME, ping_interval=None, compression=None)

    async def send(self, text):
        await self.socket.send(text)

    async def receive(self):
        try:
            return await self.socket.recv()
        except websockets.ConnectionClosed:
            self.close_code = self.socket.close_code
            return None

    async def leave(self):
        await self.socket.close(1000)

    async def end(self):
        """Lets go of the connection at once."""
        self.socket.transport.abort()


class _Http3(QuicConnectionProtocol):
    """One HTTP/3 connection with one WebTransport session and one bidirectional stream on it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = None
        self.negotiated = asyncio.Event()
        self.answer = asyncio.get_running_loop().create_future()
        self.received = asyncio.Queue()
        self.session = self.stream = None

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic, enable_webtransport=True)
            self.negotiated.set()
        elif isinstance(event, ConnectionTerminated):
            if not self.answer.done():
                self.answer.set_exception(ConnectionError(f"QUIC ended: {event.error_code} {event.reason_phrase}"))
            self.received.put_nowait(None)
        elif isinstance(event, StreamReset) and event.stream_id in (self.session, self.stream):
            self.received.put_nowait(None)
        if isinstance(event, StreamDataReceived) and event.stream_id == self.stream:
            # aioquic's HTTP/3 layer reads the answering half of a stream of ours as HTTP frames; it is bare bytes.
            self._bytes(event.data, event.end_stream)
        elif self.http is not None:
            for http_event in self.http.handle_event(event):
                self._http_event(http_event)

    def _http_event(self, event):
        if isinstance(event, HeadersReceived) and event.stream_id == self.session:
            if not self.answer.done():
                self.answer.set_result(dict(event.headers).get(b":status", b"").decode())
            if event.stream_ended:
                self.received.put_nowait(None)

    def _bytes(self, data, ended):
        self.received.put_nowait(data)
        if ended:
            self.received.put_nowait(None)


class WebTransport:
    close_code = None
    context = None

    async def open(self, region):
        url = urlsplit(region["webtransport"])
        # The development certificate is trusted by its hash alone, as a browser does, not by a chain.
        settings = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, max_datagram_frame_size=65536, server_name=url.hostname)
        self.context = quic_connect(url.hostname, url.port, configuration=settings, create_protocol=_Http3)
        self.connection = await self.context.__aenter__()
        await asyncio.wait_for(self.connection.negotiated.wait(), 5)
        certificate = self.connection._quic.tls._peer_certificate.public_bytes(Encoding.DER)
        if hashlib.sha256(certificate).digest() not in region["certificateHashes"]:
            raise ConnectionError("the certificate is none of those in /transport.json")
        await self._connect_session(url)
        self.buffer = b""

    async def _connect_session(self, url):
        connection = self.connection
        # A WebTransport session may only be asked for once the server has said that it speaks it.
        for _ in range(500):
            if connection.http.received_settings is not None:
                break
            await asyncio.sleep(0.01)
        connection.session = connection._quic.get_next_available_stream_id()
        connection.http.send_headers(connection.session, [
            (b":method", b"CONNECT"), (b":scheme", b"https"), (b":authority", url.netloc.encode()),
            (b":path", url.path.encode()), (b":protocol", b"webtransport"),
        ])
        connection.transmit()
        status = await asyncio.wait_for(connection.answer, 5)
        if status != "200":
            raise ConnectionError(f"WebTransport CONNECT answered {status}")
        connection.stream = connection.http.create_webtransport_stream(connection.session)

    async def send(self, text):
        data = text.encode()
        self.connection._quic.send_stream_data(self.connection.stream, struct.pack(">I", len(data)) + data)
        self.connection.transmit()

    async def receive(self):
        while True:
            if len(self.buffer) >= 4:
                (length,) = struct.unpack(">I", self.buffer[:4])
                if not 0 < length <= LARGEST_FRAME:
                    raise ConnectionError(f"a frame of {length} bytes")
                if len(self.buffer) >= 4 + length:
                    frame, self.buffer = self.buffer[4:4 + length], self.buffer[4 + length:]
                    return frame.decode()
            data = await self.connection.received.get()
            if data is None:
                await self.end()
                return None
            self.buffer += data

    async def leave(self):
        self.connection._quic.send_stream_data(self.connection.stream, b"", end_stream=True)
        self.connection.transmit()

    async def end(self):
        """Lets go of the connection at once."""
        context, self.context = self.context, None
        if context is not None:
            await context.__aexit__(None, None, None)
