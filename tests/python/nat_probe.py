"""Measures how a router of the Docker testnet maps and filters, for UDP and TCP, in RFC 4787's words.

    nat_probe.py HOST_PID SERVER_PID ADDRESS OTHER_ADDRESS

HOST_PID is a process in the network namespace behind the router, SERVER_PID one on the public network, where both
addresses are the server's. A socket stays in the namespace that it was made in, so one process plays both sides; it
needs root. Prints {"udp": {"mapping": ..., "filtering": ..., "unsolicited": ...}, "tcp": ...}.
"""

import ctypes
import json
import os
import socket
import sys

CLONE_NEWNET = 0x40000000
# What is not let through does not come at all, and what is comes at once: a veth has no delay.
PATIENCE = 0.5
libc = ctypes.CDLL(None, use_errno=True)


def enter(pid):
    with open(f"/proc/{pid}/ns/net") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to the network of process {pid}")


def bound(kind, address, port=0):
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.settimeout(PATIENCE)
    made.bind((address, port))
    return made


class Udp:
    kind = socket.SOCK_DGRAM

    def server(self, address):
        return bound(self.kind, address)

    def host(self, server, host_pid, near):
        """Sends from the host to the server; the address that it is seen under."""
        near.sendto(b"out", server.getsockname())
        return server.recvfrom(16)[1]

    def listen(self, near):
        return near

    def comes_through(self, server, mapped, listener):
        server.sendto(b"in", mapped)
        try:
            while listener.recvfrom(16)[1] != server.getsockname():
                pass
            return True
        except TimeoutError:
            return False


class Tcp:
    kind = socket.SOCK_STREAM

    def __init__(self):
        self.kept = []

    def server(self, address):
        made = bound(self.kind, address)
        made.listen()
        return made

    def host(self, server, host_pid, near):
        enter(host_pid)
        out = bound(self.kind, *near.getsockname())
        out.connect(server.getsockname())
        accepted, mapped = server.accept()
        self.kept += [out, accepted]
        return mapped

    def listen(self, near):
        near.listen()
        return near

    def comes_through(self, server, mapped, listener):
        enter(SERVER_PID)
        # The server's port is bound again to dial from it, as a node does that dials from where it listens.
        dialler = bound(self.kind, *server.getsockname())
        try:
            dialler.connect(mapped)
            self.kept.append(listener.accept()[0])
            return True
        except (TimeoutError, ConnectionError):
            return False
        finally:
            dialler.close()


def word(same_address, other_address):
    """RFC 4787's word for what depends on the port, on the address, on both or on neither of the other side."""
    if other_address:
        return "endpoint-independent"
    return "address-dependent" if same_address else "address and port-dependent"


def measure(transport, address, other):
    enter(SERVER_PID)
    first, port, elsewhere = (transport.server(at) for at in (address, address, other))
    enter(HOST_PID)
    mapper, filterer, silent = (bound(transport.kind, "0.0.0.0") for _ in range(3))

    seen = [transport.host(server, HOST_PID, mapper) for server in (first, port, elsewhere)]
    router = seen[0][0]
    mapping = word(seen[0] == seen[1], seen[0] == seen[2])

    mapped = transport.host(first, HOST_PID, filterer)
    listener = transport.listen(filterer)
    # The nearer stranger last: what it opens must not help the other.
    stranger = transport.comes_through(elsewhere, mapped, listener)
    neighbour = transport.comes_through(port, mapped, listener)

    unsolicited = transport.comes_through(elsewhere, (router, silent.getsockname()[1]), transport.listen(silent))
    return {"mapping": mapping, "filtering": word(neighbour, stranger), "unsolicited": unsolicited}


HOST_PID, SERVER_PID = int(sys.argv[1]), int(sys.argv[2])
print(json.dumps({"udp": measure(Udp(), *sys.argv[3:5]), "tcp": measure(Tcp(), *sys.argv[3:5])}))
