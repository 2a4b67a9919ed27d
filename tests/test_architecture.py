"""
The rooms, and which way imports point between them.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).parent.parent / "dotproxy"

#: What each room may import of the others: rooms, or single modules of them.  A room is a folder.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": {"wire.printable"},
    "wire": {"errors"},
    "policy": {"errors", "wire"},
    "cache": {"errors", "wire", "policy"},
    "telemetry": {"errors", "wire", "policy"},
    "forwarding": {"errors", "wire", "policy", "cache", "telemetry.counters"},
    "upstream": {
        "errors",
        "wire",
        "policy",
        "forwarding.interfaces",
        "telemetry.counters",
        "telemetry.events",
        "telemetry.status",
    },
    "downstream": {"errors", "wire", "policy", "forwarding.interfaces", "telemetry.counters"},
    "testing": {"errors", "wire", "policy", "telemetry.counters"},
    "config": {"errors", "wire.rewrite", "policy", "telemetry.plural", "upstream.spec"},
    "service.admin": {"errors", "wire", "config", "telemetry", "downstream.sockets", "service.reactor"},
    "service": {
        "errors",
        "wire",
        "policy",
        "cache",
        "telemetry",
        "forwarding",
        "upstream",
        "downstream",
        "config",
        "service.admin",
    },
    "service.workers": {
        "errors",
        "wire",
        "policy",
        "cache",
        "telemetry",
        "downstream",
        "config",
        "service.admin",
        "service",
    },
    "resolver": {"config", "downstream", "service", "telemetry", "upstream"},
    "tap": {"errors", "config", "downstream.sockets", "service", "service.workers", "telemetry.lines"},
    "cli": {
        "errors",
        "wire",
        "policy",
        "config",
        "telemetry",
        "upstream",
        "downstream.sockets",
        "service",
        "tap",
        "testing",
        "cli.doctor",
    },
    "cli.doctor": {"errors", "wire", "config", "upstream.spec", "service.reactor", "cli"},
    "__init__": {"resolver"},
    "__main__": {"cli"},
}
#: Modules that import nothing but the standard library and ``errors``, and may be imported early.
LEAVES = {"wire.printable"}
PURE = {"errors", "wire", "policy", "cache"}

#: Files beside the rooms.
TOP_LEVEL = {"__init__.py", "__main__.py", "errors.py", "resolver.py", "tap.py"}
MOST_ROOMS, MOST_FLOORS = 14, 11


def room_of(module: str) -> str:
    """
    Return the room of a module: its folder, or the module itself if it stands beside the rooms.
    """
    return module.rpartition(".")[0] or module


def modules() -> Iterator[tuple[str, Path]]:
    """
    Each module, with its room.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1]) or parts[0], path


def inner_imports(path: Path) -> set[str]:
    """
    Return the modules of ours that a module imports.
    """
    found = set()
    for name, _ in imports(path):
        if name.startswith("dotproxy."):
            module = name.removeprefix("dotproxy.")
            while module and not (PACKAGE / (module.replace(".", "/") + ".py")).exists():
                module = module.rpartition(".")[0]
            found.add(module or "__init__")
    return found


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


#: Modules without a test file of their own, and why: they hold data or declarations, and decide nothing.
DATA_ONLY = {
    "config/caching.py": "settings as data; test_schema looks at all of them",
    "config/choices.py": "the words of enumerated settings",
    "config/operation.py": "settings as data; test_schema looks at all of them",
    "config/setting.py": "the fields of a setting",
    "config/tls_listener.py": "settings as data; test_schema looks at all of them",
    "downstream/interfaces.py": "protocols",
    "downstream/recvmmsg_abi.py": "made by cffi; test_udp_port makes it again and compares",
    "errors.py": "exceptions and the words of their codes",
    "forwarding/interfaces.py": "protocols",
    "forwarding/settings.py": "records",
    "policy/client.py": "a record",
    "policy/share_settings.py": "records",
    "service/reactor.py": "protocols",
    "telemetry/events.py": "the events there are, each of which does nothing",
    "upstream/interfaces.py": "protocols",
    "upstream/presets.py": "addresses and names of public services",
    "upstream/settings.py": "a record",
}

#: Modules that put others together, or talk to a terminal or the machine: the tests of what comes of them, by module.
TESTED_AS_A_WHOLE = {
    "cli/demo.py": "integration/test_commands.py",
    "cli/diagnostic_commands.py": "integration/test_doctor.py",
    "cli/doctor/examination.py": "integration/test_doctor_in_process.py",
    "cli/main.py": "integration/test_commands.py",
    "cli/query.py": "integration/test_doctor.py",
    "cli/rdata_text.py": "cli/test_message_text.py",
    "cli/session.py": "integration/test_doctor.py",
    "config/model.py": "config/test_load.py",
    "config/values.py": "config/test_schema.py",
    "forwarding/delivery.py": "forwarding/test_forwarder_counters.py",
    "resolver.py": "downstream/test_in_process.py",
    "service/admin/pages.py": "integration/test_admin.py",
    "service/admin_commands.py": "integration/test_admin.py",
    "service/assembly.py": "service/test_reload.py",
    "service/builders.py": "service/test_reload.py",
    "service/listening.py": "service/test_reload.py",
    "service/privileges.py": "service/test_drop_privileges.py",
    "service/proxy.py": "service/test_reload.py",
    "service/twistd_service.py": "test_tap.py",
    "service/upstream_builders.py": "service/test_reload.py",
    "testing/certificates.py": "upstream/test_verification.py",
    "testing/client.py": "integration/test_in_process.py",
    "testing/fakes.py": "forwarding/test_forwarder.py",
    "testing/server.py": "upstream/test_upstream.py",
    "testing/zone.py": "forwarding/test_forwarder.py",
}


class MirrorTests(SynchronousTestCase):
    """
    Where a module's tests are.
    """

    def test_each_module_with_logic_has_its_test_file(self) -> None:
        """
        In the mirrored place, named after it; the lists of the others hold no module that has one.
        """
        tests = Path(__file__).parent
        without = set()
        for _, path in modules():
            name = path.relative_to(PACKAGE)
            if not name.name.startswith("__") and not (tests / name.parent / f"test_{name.name}").exists():
                without.add(str(name))
        self.assertEqual(DATA_ONLY.keys() | TESTED_AS_A_WHOLE.keys(), without)
        for name in TESTED_AS_A_WHOLE.values():
            self.assertTrue((tests / name).exists(), name)


class ArchitectureTests(SynchronousTestCase):
    """
    Directions.
    """

    def test_imports_between_rooms_point_one_way(self) -> None:
        """
        Each room imports only what it may.
        """
        for room, path in modules():
            for module in inner_imports(path):
                other = room_of(module)
                if other not in {room, "__init__"}:
                    self.assertTrue(
                        {other, module} & MAY_IMPORT[room], f"{path.relative_to(PACKAGE)} in {room} imports {module}"
                    )

    def test_top_level_rooms_and_import_depth_are_limited(self) -> None:
        """
        The top level has the rooms and few files; rooms are few, and so are the floors of imports that they make.
        """
        self.assertEqual(TOP_LEVEL, {path.name for path in PACKAGE.glob("*.py")})
        rooms = {room for room, path in modules() if path.parent != PACKAGE}
        self.assertLessEqual(len(rooms), MOST_ROOMS)
        uses: dict[str, set[str]] = defaultdict(set)
        for room, path in modules():
            top = room.partition(".")[0]
            for module in inner_imports(path) - LEAVES:
                uses[top].add(module.partition(".")[0])
        floors = {"__init__": 1}  # the version alone; the resolver is imported when it is used

        def floor_of(room: str, above: tuple[str, ...] = ()) -> int:
            self.assertNotIn(room, above, "imports in a circle")
            if room not in floors:
                below = [floor_of(other, (*above, room)) for other in uses[room] - {room}]
                floors[room] = 1 + max(below, default=0)
            return floors[room]

        self.assertLessEqual(max(floor_of(room) for room in list(uses)), MOST_FLOORS)

    def test_wire_and_policy_import_the_standard_library_only(self) -> None:
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

    def test_configuration_does_not_import_twisted(self) -> None:
        """
        A configuration can be checked without Twisted.
        """
        for room, path in modules():
            if room == "config" or path.name in {"spec.py", "presets.py"}:
                for name, _ in imports(path):
                    self.assertFalse(name.startswith("twisted"), f"{path} imports {name}")

    def test_global_reactor_is_imported_in_three_places(self) -> None:
        """
        The global reactor is imported in three places, and only when they are called.
        """
        found = set()
        for room, path in modules():
            for name, is_top_level in imports(path):
                if name == "twisted.internet.reactor":
                    self.assertFalse(is_top_level, str(path))
                    found.add(room)
        self.assertEqual({"tap", "resolver", "service.workers"}, found)

    def test_only_the_demo_imports_the_fakes(self) -> None:
        """
        Nothing but the demonstration uses what is there for tests.
        """
        users = {
            "testing" if room == "testing" else f"{room}.{path.stem}"
            for room, path in modules()
            for name, _ in imports(path)
            if name.startswith("dotproxy.testing")
        }
        self.assertEqual({"testing", "cli.demo"}, users)

    def test_modules_have_a_docstring_and_400_lines_at_most(self) -> None:
        """
        Each module has a head that says so, and at most 400 lines; the settings are data, which is searched and not read.
        """
        for _, path in modules():
            text = path.read_text("utf-8")
            self.assertTrue(ast.get_docstring(ast.parse(text)), str(path))
            if path.name != "schema.py":
                self.assertLessEqual(len(text.splitlines()), 400, str(path))
