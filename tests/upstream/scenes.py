"""
What the tests of the upstream room share: an authority, a zone, an upstream in memory.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from dotproxy.errors import UpstreamError
from dotproxy.telemetry.events import Events
from dotproxy.testing.certificates import Authority, Issued
from dotproxy.testing.client import make_query
from dotproxy.testing.server import DotServer, MemoryNetwork
from dotproxy.testing.zone import Zone, address_rdata
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verification import ServerVerifier
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from dotproxy.wire.message import question_of
from dotproxy.wire.rrtypes import A

#: Made once: keys take time.
AUTHORITY = Authority()
STRANGER = Authority("somebody else's CA")
NAME = "dot.test"
ADDRESS = "192.0.2.53"
GOOD = AUTHORITY.issue([NAME, ADDRESS])
ZONE = Zone({("www.test.", A): [address_rdata("192.0.2.1")]})


def make_verifier(**changes: Any) -> ServerVerifier:
    """
    Return a verifier of dot.test, certified by ``AUTHORITY``.
    """
    given: dict[str, Any] = {
        "address": ADDRESS,
        "name": NAME,
        "ca": AUTHORITY.pem,
        "now": lambda: datetime.now(UTC),
        **changes,
    }
    return ServerVerifier(**given)


def make_question(token: object, name: str = "www.test.") -> tuple[object, bytes, int]:
    """
    A question as an upstream is asked it.
    """
    query = make_query(name, A)
    return token, query, question_of(query)


class Told:
    """
    Outcomes and events, kept.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[Any, bytes]] = []
        self.failures: list[tuple[Any, UpstreamError, bool]] = []
        self.unwanted: set[Any] = set()
        self.on_failure: Callable[[list[Any]], None] = lambda tokens: None

    @property
    def answered_tokens(self) -> list[Any]:
        """
        Whose answers came, in order.
        """
        return [token for token, _ in self.answers]

    @property
    def failed_tokens(self) -> list[Any]:
        """
        Whose failures came, in order.
        """
        return [token for token, _, _ in self.failures]

    def replies_received(self, upstream: object, answers: list[tuple[Any, bytes]]) -> None:
        """
        Called by the upstream.
        """
        self.answers += answers

    def failed(self, upstream: object, tokens: list[Any], error: UpstreamError, *, is_final: bool) -> None:
        """
        Called by the upstream.
        """
        self.failures += [(token, error, is_final) for token in tokens]
        self.on_failure(tokens)

    def is_wanted(self, token: Any) -> bool:
        """
        Called by the upstream.
        """
        return token not in self.unwanted


class Heard(Events):
    """
    Events, as tuples of their names and what matters of them.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def upstream_connected(self, upstream, peer, tls, verified, *, resumed, seconds):
        self.events.append(("connected", peer, tls, verified, resumed))

    def upstream_went_down(self, upstream, error):
        self.events.append(("down", error.phase, error.reason))

    def upstream_came_up(self, upstream, seconds, failures):
        self.events.append(("up", seconds, failures))

    def connection_closed(self, upstream, reason, outstanding):
        self.events.append(("closed", reason, outstanding))

    def states(self) -> list[str]:
        """
        The changes of state alone.
        """
        return [event[0] for event in self.events if event[0] in ("down", "up")]


class Scene:
    """
    One upstream, one server, and the network between them.
    """

    def __init__(
        self, certificate: Issued = GOOD, verifier: ServerVerifier | None = None, idle_timeout: float = 30.0
    ) -> None:
        self.network = MemoryNetwork()
        self.clock = self.network.reactor
        self.server = DotServer(ZONE, certificate)
        self.told = Told()
        self.heard = Heard()
        endpoint = VerifiedEndpoint(self.clock, ADDRESS, 853, verifier or make_verifier(), 3.0)
        self.upstream = Upstream(
            "the upstream",
            endpoint,
            UpstreamSettings(idle_timeout),
            runtime=Runtime(self.clock, self.clock.seconds, Counting(), lambda: 0.0),
            events=self.heard,
        )
        self.upstream.bind(self.told)
        self.upstream.startService()

    def ask(self, *tokens: object) -> None:
        """
        Ask, in one batch.
        """
        self.upstream.send([make_question(token) for token in tokens])

    def connect(self, *tokens: object) -> None:
        """
        Ask, let the upstream connect, and settle.
        """
        self.ask(*tokens)
        self.network.accept(self.server)

    @property
    def dials(self) -> int:
        """
        How often it was dialled.
        """
        return len(self.network.dialled)


class Counting:
    """
    A source of octets that never runs dry and never repeats for long.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 7919
        return b"".join(((self.count * (n + 1)) % 65521).to_bytes(2, "big") for n in range(size // 2))


def later(**delta: float) -> Callable[[], datetime]:
    """
    A wall clock that is off by ``delta``.
    """
    return lambda: datetime.now(UTC) + timedelta(**delta)
