"""Receivers of alerts as Apprise meets them: an HTTPS proxy in front of every host, and an SMTP.

Apprise's plugins post to fixed hosts. What they send goes through the proxy of the environment, and
ends here: the proxy answers in the host's name, with a certificate that nobody signed.
"""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.fakes.certificates import write_certificate


@dataclass
class Receivers:
    """What arrived.

    Attributes:
        posted: by host, the JSON bodies.
        mails: the messages.
    """

    proxy_url: str = ""
    smtp_port: int = 0
    posted: dict[str, list[Any]] = field(default_factory=dict)
    mails: list[EmailMessage] = field(default_factory=list)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def receivers(folder: Path) -> Iterator[Receivers]:
    """Listen on two loopback ports; the certificate is put into a folder."""
    arrived = Receivers()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(folder / "receivers.pem"))

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            host = self.rfile.readline().split()[1].decode().partition(":")[0]
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with context.wrap_socket(self.connection, server_side=True) as secured:
                stream = secured.makefile("rb")
                stream.readline()
                length = 0
                while line := stream.readline().strip():
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                arrived.posted.setdefault(host, []).append(json.loads(stream.read(length)))
                answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
                secured.sendall(answer)

    class Smtp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                verb = line.strip().upper()
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    content = b""
                    while (part := self.rfile.readline()) != b".\r\n":
                        content += part.removeprefix(b".") if part.startswith(b"..") else part
                    mail = message_from_bytes(content, policy=policy.default)
                    assert isinstance(mail, EmailMessage)
                    arrived.mails.append(mail)
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

    with _Server(("127.0.0.1", 0), Proxy) as proxy, _Server(("127.0.0.1", 0), Smtp) as smtp:
        for server in (proxy, smtp):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        arrived.proxy_url = f"http://127.0.0.1:{_port(proxy.socket)}"
        arrived.smtp_port = _port(smtp.socket)
        yield arrived
        proxy.shutdown()
        smtp.shutdown()


def _port(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port
