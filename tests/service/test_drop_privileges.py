"""
As whom a service serves, what is said of that, and the calls by which privileges are given up.
"""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import skipIf

from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from dotproxy import tap
from dotproxy.config.load import load
from dotproxy.config.system_users import Account, parse_account
from dotproxy.errors import ConfigError
from dotproxy.service import drop_privileges, privileges
from dotproxy.service.assembly import build
from dotproxy.service.drop_privileges import Confinement, choose_user
from dotproxy.service.privileges import FILES, unusable
from tests.config.test_schema import folder

IS_ROOT = os.geteuid() == 0
ONLY_ROOT = "only root has what is given up here"


class UserTests(SynchronousTestCase):
    """
    Which user twistd is to give root up for.
    """

    def chosen(self, *arguments: str, uid: int = 0) -> tuple[object, object]:
        """
        What twistd is left with after a command line, for root or another user.
        """
        self.patch(os, "geteuid", lambda: uid)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}
        self.patch(os, "environ", clean)
        parent = ServerOptions()
        parent.parseOptions(["--nodaemon", *arguments])
        return parent["uid"], parent["gid"]

    def test_setting_names_user_and_omits_the_pid_file(self) -> None:
        """
        Names whom root is given up for; there is no pid file that cannot be deleted.
        """
        nobody = pwd.getpwnam("nobody")
        self.assertEqual((nobody.pw_uid, nobody.pw_gid), self.chosen("dotproxy", "--user", "nobody"))
        self.assertEqual((nobody.pw_uid, 12), self.chosen("dotproxy", "--user", "nobody:12"))
        self.assertEqual((None, None), self.chosen("dotproxy"))
        parent = ServerOptions()
        parent.parseOptions(["--nodaemon", "dotproxy", "--user", "nobody"])
        self.assertEqual("", parent["pidfile"])

    def test_twistd_options_override_the_setting(self) -> None:
        """
        As they always meant what they say.
        """
        self.assertEqual((1, None), self.chosen("--uid", "1", "dotproxy", "--user", "nobody"))
        nobody = pwd.getpwnam("nobody")
        self.assertEqual((nobody.pw_uid, 5), self.chosen("--gid", "5", "dotproxy", "--user", "nobody"))

    def test_unprivileged_process_cannot_change_the_user(self) -> None:
        """
        Cannot become anybody; neither can `twist`, which has no such option.
        """
        self.assertEqual((None, None), self.chosen("dotproxy", "--user", "nobody", uid=1000))
        twist: dict[str, Any] = {}
        choose_user(parse_account("nobody"), twist)
        self.assertEqual({}, twist)


class ConfinementTests(SynchronousTestCase):
    """
    What is said at the start, and when what is given up.
    """

    def setUp(self) -> None:
        """
        Have calls noted in place of being made.
        """
        self.calls: list[tuple[str, frozenset[int]]] = []
        self.lost: list[Path] = []
        self.asked_as: list[Account | None] = []
        self.logged: list[str] = []
        self.patch(drop_privileges, "forbid_gains", lambda keep: self.note("bound", keep))
        self.patch(drop_privileges, "give_up", lambda keep: self.note("serving", keep))
        self.patch(drop_privileges, "unusable", self.unusable)
        self.patch(drop_privileges.log, "observer", lambda event: self.logged.append(formatEvent(event)))
        self.patch(os, "geteuid", lambda: 0)

    def note(self, name: str, keep: Iterable[int]) -> list[str]:
        """
        A call, in which something is refused.
        """
        self.calls.append((name, frozenset(keep)))
        return [f"{name}: operation not permitted"]

    def unusable(self, needed: Iterable[tuple[Path, int]], account: Account | None) -> list[Path]:
        """
        What nobody may use.
        """
        self.asked_as.append(account)
        return [path for path, _ in needed if path in self.lost]

    def begin(self, uid: int | None = None, **settings: str) -> None:
        """
        A start.
        """
        config = load({key: [value] for key, value in settings.items()}, {}).config
        begun = Confinement(config, "/etc/dotproxy.toml", uid, uid)
        begun.announce()
        begun.bound()
        begun.serving()

    def test_root_without_a_user_is_a_warning_and_keeps_no_capability(self) -> None:
        """
        One warning that says how not to; nothing is kept.
        """
        self.begin()
        told = 'serving as root, without capabilities: user = "NAME", or --user NAME, gives root up once all is bound'
        self.assertEqual([told], self.logged)
        self.assertEqual([("bound", frozenset()), ("serving", frozenset())], self.calls)

    def test_root_keeps_the_capabilities_for_files_of_others(self) -> None:
        """
        What it needs capabilities for, it keeps them for.
        """
        self.lost = [Path("/etc/dotproxy.toml")]
        self.begin()
        self.assertIn("but for access to all files (/etc/dotproxy.toml is another user's): user = ", self.logged[0])
        self.assertEqual([("bound", FILES), ("serving", FILES)], self.calls)

    def test_user_is_warned_of_files_it_cannot_use(self) -> None:
        """
        Is told of what it may not use, and nothing else; nothing is kept for that.
        """
        self.begin(65534)
        self.assertEqual([], self.logged)
        self.lost = [Path("/etc/dotproxy.toml"), Path("/var/lib"), Path(sys.executable)]
        self.begin(65534, cache_file="/var/lib/cache")
        self.assertEqual(
            [
                f"user nobody: may not use {sys.executable}, which is part of the program",
                "user nobody: may not read /etc/dotproxy.toml, so that a reload will fail",
                "user nobody: may not write to /var/lib, so that there will be no cache_file; chown it",
            ],
            self.logged,
        )
        self.assertEqual({("bound", frozenset()), ("serving", frozenset())}, set(self.calls))
        self.assertEqual({65534}, {account.uid for account in self.asked_as if account})

    def test_user_that_cannot_start_workers_is_refused(self) -> None:
        """
        Is refused: each of them would end at once, for ever.
        """
        self.lost = [Path(sys.executable)]
        begun = Confinement(load({}, {}).config, None, 65534, 65534)
        error = self.assertRaises(ConfigError, begun.announce, has_workers=True)
        told = f"user nobody: may not use {sys.executable}, which is part of the program, and start no worker"
        self.assertEqual(([told], []), (error.problems, self.logged))
        begun.announce(has_workers=False)
        self.assertEqual(1, len(self.logged))

    def test_refused_call_is_logged_at_debug(self) -> None:
        """
        Is told with log_level = "debug", and ends nothing.
        """
        self.begin(65534, log_level="debug")
        self.assertEqual(
            [("privileges were given up; bound: operation not permitted; serving: operation not permitted")],
            self.logged,
        )

    def test_unprivileged_process_logs_only_a_different_user(self) -> None:
        """
        Says nothing, unless it was to be somebody else.
        """
        self.patch(os, "geteuid", lambda: 1000)
        self.begin()
        self.assertEqual([], self.logged)
        self.begin(user="nobody")
        self.assertEqual(["user nobody: only root can become another user; serving as user 1000"], self.logged)

    def test_library_service_drops_no_privileges(self) -> None:
        """
        Gives nothing up.
        """
        self.patch(tap, "_build", lambda config, reactor, source: build(config, Clock(), source=source))
        options = tap.Options()
        options.parseOptions(["--listen", "127.0.0.1:0"])
        service: Any = tap.makeService(options)
        service.privilegedStartService()
        for bound in (*service.proxy._sockets.datagrams, *service.proxy._sockets.streams):
            bound.close()
        self.assertEqual([], self.calls)


class CallTests(SynchronousTestCase):
    """
    The calls, in processes of their own.
    """

    def after(self, code: str) -> str:
        """
        What a program prints that ends with a look at its own status.
        """
        program = f"""
import re
from dotproxy.service.privileges import *
{code}
text = open("/proc/self/status").read()
print([int(re.search(name + r":\\s*(\\w+)", text)[1], 16) for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")])
"""
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    @skipIf(not IS_ROOT, ONLY_ROOT)
    def test_all_capabilities_are_dropped(self) -> None:
        """
        Nothing is left, and nothing refused.
        """
        self.assertEqual("[] []\n[0, 0, 0, 1]\n", self.after("print(forbid_gains(), give_up())"))

    @skipIf(not IS_ROOT, ONLY_ROOT)
    def test_kept_capabilities_stay(self) -> None:
        """
        What is kept is there, if it was.
        """
        self.assertEqual("[] []\n[6, 6, 6, 1]\n", self.after("print(forbid_gains(FILES), give_up(FILES))"))
        self.assertEqual("[] []\n[0, 0, 0, 1]\n", self.after("print(forbid_gains(), give_up()); give_up(FILES)"))

    @skipIf(not IS_ROOT, ONLY_ROOT)
    def test_refused_call_has_a_text(self) -> None:
        """
        Is told in words.
        """
        refused = self.after("give_up(); print(forbid_gains())").splitlines()
        self.assertEqual("['the bounding set: operation not permitted']", refused[0])
        self.assertRegex(refused[1], r"^\[0, 0, [1-9]\d*, 1\]$")

    def test_unprivileged_process_raises_nothing(self) -> None:
        """
        Gain nothing any more, and nothing is raised.
        """
        code = "import os; os.geteuid() or os.setuid(65534); forbid_gains(); give_up()"
        self.assertRegex(self.after(code), r"^\[0, 0, \d+, 1\]\n$")

    def test_other_systems_do_nothing(self) -> None:
        """
        Nothing is done, and nothing refused.
        """
        self.patch(privileges.sys, "platform", "darwin")
        self.assertEqual(([], []), (privileges.forbid_gains(), privileges.give_up()))

    @skipIf(not IS_ROOT, ONLY_ROOT)
    def test_unusable_files_are_found_and_the_process_is_unchanged(self) -> None:
        """
        As another user, and as root without capabilities; this process is afterwards what it was.
        """
        status = Path("/proc/self/status").read_text().partition("Groups")[2].partition("\n")[0]
        where = folder(self)
        where.chmod(0o755)
        roots, nobodys, gone = where / "root's", where / "nobody's", where / "gone"
        for path in (roots, nobodys):
            path.mkdir(0o700)
        nobody = parse_account("nobody")
        os.chown(nobodys, nobody.uid, nobody.gid)
        needed = [(path, os.R_OK) for path in (roots, nobodys, gone, nobodys / "gone")]
        self.assertEqual([roots], unusable(needed, nobody))
        self.assertEqual([nobodys, nobodys / "gone"], unusable(needed, None))
        self.assertEqual([], unusable([(Path("/"), os.R_OK)], nobody))
        self.assertEqual((0, 0), (os.geteuid(), os.getegid()))
        self.assertIn(status, Path("/proc/self/status").read_text())
        self.assertEqual([], [*nobodys.iterdir()], "root may enter it again")
