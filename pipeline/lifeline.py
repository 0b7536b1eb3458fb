"""A lost rank ends the job in seconds on every machine, whatever the others are waiting for.

Collectives notice a dead peer late: NCCL waits for its timeout, gloo across machines for TCP's. So every rank holds one
quiet TCP connection to rank 0. The kernel closes it when its process dies, however it dies, and keepalive probes find
out about a machine that is gone. Who sees a connection end without a farewell ends its own process.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import warnings
from contextlib import suppress

from pipeline.dist import Comm, launched_local_rank, launched_rank
from pipeline.errors import LostRankError

KEEPALIVE_S = 5  # silence before the first probe, and time between probes
PROBES = 3  # unanswered ones until a connection counts as dead: 20 seconds in all
JOIN_S = 60.0
OWN_ERROR_S = 0.2  # whoever fails for the same reason as the lost rank says that, and nothing of the loss
PATIENCE_S = 2.0  # the main thread often sees the loss itself, and ends in its own way
_FAREWELL, _LOST = b".", b"!"


class Lifeline:
    """This rank's connections, and the thread that watches them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._leaving = threading.Event()
        self._seen = threading.Event()
        self._lost: int | None = None
        self._unsaid = threading.Lock()

    def join(self, comm: Comm) -> None:
        """Connect this rank and begin to watch; a collective. Where ranks cannot connect, there is only a warning."""
        if comm.world_size == 1:
            return
        listener = _listener(comm.world_size) if comm.rank == 0 else None
        port = comm.broadcast_object(listener.getsockname()[1] if listener else None)
        problem = None
        try:
            self._connect(listener, port, comm)
        except OSError as error:
            problem = f"rank {comm.rank}: {error}"
        problems = [each for each in comm.gather_objects(problem) if each]
        if not problems:
            threading.Thread(target=self._watch, name="gst-lifeline", daemon=True).start()
        elif comm.rank == 0:
            warnings.warn(f"ranks cannot watch over each other: {problems[0]}", stacklevel=2)

    def farewell(self) -> None:
        """This process leaves in good order; nobody is to be alarmed. After it nothing is watched here."""
        self._leaving.set()
        self._tell(_FAREWELL)

    def leave_alone(self) -> None:
        """This process is about to end with an error of its own: say nothing more about others."""
        self._leaving.set()

    def lost_rank(self, wait_s: float = 0.0) -> int | None:
        """The rank that is gone, if one is; waits a moment for the news."""
        self._seen.wait(wait_s)
        return self._lost

    def _connect(self, listener: socket.socket | None, port: int, comm: Comm) -> None:
        if listener is None:
            connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=JOIN_S)
            connection.sendall(comm.rank.to_bytes(4, "big"))
            self._keep(connection, 0)
            return
        missing = set(range(1, comm.world_size))
        with listener:
            listener.settimeout(JOIN_S)
            while missing:
                connection, _ = listener.accept()
                connection.settimeout(JOIN_S)
                rank = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
                if rank not in missing:  # a stranger
                    connection.close()
                    continue
                missing.remove(rank)
                self._keep(connection, rank)

    def _keep(self, connection: socket.socket, rank: int) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        self._selector.register(connection, selectors.EVENT_READ, rank)

    def _watch(self) -> None:
        """Runs in a thread until all peers have left in good order, or one is lost."""
        while self._selector.get_map():
            for key, _ in self._selector.select():
                assert isinstance(key.fileobj, socket.socket)
                said = _hear(key.fileobj)
                if said == _FAREWELL or self._leaving.is_set():
                    self._selector.unregister(key.fileobj)
                    continue
                self._lost = int.from_bytes(said[1:], "big") if said[:1] == _LOST else key.data
                self._seen.set()
                self._tell(_LOST + self._lost.to_bytes(4, "big"))
                if self._leaving.wait(OWN_ERROR_S):
                    continue
                error = self.error(self._lost)
                self.say(error)
                if not self._leaving.wait(PATIENCE_S):
                    os._exit(error.exit_code)

    def _tell(self, message: bytes) -> None:
        for key in list((self._selector.get_map() or {}).values()):
            with suppress(OSError):
                key.fileobj.send(message)  # type: ignore[union-attr]

    def error(self, lost: int | None) -> LostRankError:
        """What there is to say of rank `lost`; None: of a rank that nobody can name."""
        who = "a rank" if lost is None else f"rank {lost}"
        return LostRankError(
            f"{who} is gone: it was killed, has failed, or its machine is cut off",
            where={"noticed by": f"rank {launched_rank()}"},
            hint="look at what it said last; the same command again goes on from the newest checkpoint",
        )

    def say(self, error: LostRankError) -> None:
        """Report the loss, once, on the one rank of each machine whose turn it is: the first that is left."""
        first = launched_rank() - launched_local_rank()
        turn = launched_local_rank() == (1 if self._lost == first else 0)
        if turn and self._unsaid.acquire(blocking=False):
            print(f"error: {error}", file=sys.stderr, flush=True)


def _listener(backlog: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=backlog)


def _hear(connection: socket.socket) -> bytes:
    """What the peer says; nothing when it is gone."""
    try:
        said = connection.recv(1)
        return said + connection.recv(4, socket.MSG_WAITALL) if said == _LOST else said
    except OSError:
        return b""


LIFELINE = Lifeline()  # of this process: whoever ends it must be able to reach it
