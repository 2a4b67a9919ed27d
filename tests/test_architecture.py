"""
The rooms, and which way imports point between them.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).parent.parent / "dotproxy"

#: Of our own, what each room may import; a room is a folder, or a module beside the folders.
MAY_IMPORT: dict[str, set[str]] = {
    "plain_text": set(),
    "deadlines": set(),
    "errors": {"plain_text"},
    "admin_client": {"deadlines", "plain_text"},
    "wire": {"errors", "wire"},
    "policy": {"errors", "wire", "policy"},
    "telemetry": {"errors", "neighbours", "plain_text", "policy", "telemetry", "wire"},
    "upstream": {
        "errors",
        "neighbours",
        "wire",
        "policy",
        "telemetry.counters",
        "telemetry.events",
        "telemetry.status",
        "upstream",
    },
    "downstream": {"errors", "neighbours", "wire", "policy", "telemetry.counters", "downstream"},
    "neighbours": {"policy", "telemetry.counters", "wire"},
    "network": set(),
    "live": {"errors", "neighbours", "policy", "wire"},
    "reception": {"errors", "neighbours", "wire", "policy"},
    "roster": {"live", "neighbours", "policy"},
    "asking": {"errors", "live", "neighbours", "roster", "wire", "policy"},
    "delivery": {"answering", "live", "neighbours", "policy", "telemetry.counters", "wire"},
    "share_filter": {"errors", "live", "neighbours", "policy", "telemetry.counters", "wire"},
    "stale_timer": {"live"},
    "answering": {"live", "neighbours", "wire"},
    "forwarder": {
        "answering",
        "asking",
        "delivery",
        "live",
        "neighbours",
        "reception",
        "share_filter",
        "stale_timer",
        "telemetry.counters",
        "wire",
        "policy",
    },
    "systemd": set(),
    "readiness": {"systemd", "telemetry"},
    "served_tls": {"config", "downstream.tls_context", "errors", "systemd", "tls_files", "upstream.records"},
    "tls_files": {"config", "errors", "upstream.trust"},
    "collector": set(),
    "private_files": set(),
    "cache_format": {"errors", "policy", "private_files", "wire"},
    "snapshot": {"cache_format", "policy", "private_files"},
    "resolver": {"errors", "telemetry.counters", "wire"},
    "config": {"errors", "policy", "telemetry.words", "upstream.address", "config"},
    "privileges": {"config.accounts"},
    "testing": {"errors", "telemetry.counters", "wire", "policy", "testing"},
}
#: Those that put everything together.
ASSEMBLERS = {
    "admin",
    "admin_site",
    "control",
    "workers",
    "doctor",
    "assembly",
    "confinement",
    "parts",
    "proxy",
    "library",
    "tap",
    "cli",
    "demo",
    "__init__",
    "__main__",
}
PURE = {"errors", "plain_text", "wire", "policy"}


def modules() -> Iterator[tuple[str, Path]]:
    """
    Each module, with its room.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], path


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """
    What a module imports, and whether at its top level.
    """
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import in {path}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield name, node in tree.body


class ArchitectureTests(SynchronousTestCase):
    """
    Directions.
    """

    def test_every_room_imports_only_what_it_may(self) -> None:
        """
        Imports between rooms point one way.
        """
        for room, path in modules():
            if room in ASSEMBLERS:
                continue
            for name, _ in imports(path):
                if name.startswith("dotproxy."):
                    inner = name.removeprefix("dotproxy.") + "."
                    allowed = any(inner.startswith(f"{other}.") for other in MAY_IMPORT[room])
                    self.assertTrue(allowed, f"{path.name} in {room} imports {name}")

    def test_the_pure_rooms_are_pure(self) -> None:
        """
        Wire and policy use the standard library alone, and of it neither time, chance nor logging.
        """
        for room, path in modules():
            if room not in PURE:
                continue
            for name, _ in imports(path):
                top = name.partition(".")[0]
                self.assertTrue(top == "dotproxy" or top in sys.stdlib_module_names, f"{path} imports {name}")
                self.assertNotIn(top, {"time", "random", "secrets", "logging", "socket", "asyncio", "os"}, str(path))

    def test_configuration_knows_no_twisted(self) -> None:
        """
        A configuration can be checked without Twisted.
        """
        for room, path in modules():
            if room == "config" or path.name in {"address.py", "presets.py"}:
                for name, _ in imports(path):
                    self.assertFalse(name.startswith("twisted"), f"{path} imports {name}")

    def test_the_reactor_is_chosen_at_the_edge(self) -> None:
        """
        The global reactor is imported in three places, and only when they are called.
        """
        found = set()
        for room, path in modules():
            for name, is_top_level in imports(path):
                if name == "twisted.internet.reactor":
                    self.assertFalse(is_top_level, str(path))
                    found.add(room)
        self.assertEqual({"tap", "library", "workers"}, found)

    def test_fakes_stay_out_of_the_proxy(self) -> None:
        """
        Nothing but the demonstration uses what is there for tests.
        """
        users = {room for room, path in modules() for name, _ in imports(path) if name.startswith("dotproxy.testing")}
        self.assertEqual({"testing", "demo"}, users)

    def test_modules_are_small_and_say_what_they_are_for(self) -> None:
        """
        Each module has a head that says so, and at most 400 lines; the settings are data, which is searched and not read.
        """
        for _, path in modules():
            text = path.read_text("utf-8")
            self.assertTrue(ast.get_docstring(ast.parse(text)), str(path))
            if path.name != "schema.py":
                self.assertLessEqual(len(text.splitlines()), 400, str(path))
