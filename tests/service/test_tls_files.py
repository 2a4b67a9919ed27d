"""
The files that TLS is built from: what can be used, what has changed, and when that is looked at.
"""

import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import load
from dotproxy.config.model import Config
from dotproxy.errors import ConfigError
from dotproxy.service.tls_files import (
    INTERVAL,
    TlsFileWatch,
    read_tls_files,
    read_usable_tls_files,
    system_store,
    watched_paths,
)
from dotproxy.testing.certificates import Authority
from tests.config.test_schema import folder

ONE, OTHER = Authority("one"), Authority("other")
MINE, YOURS = ONE.issue(["client.test"]), ONE.issue(["client.test"])


class ReadingTests(SynchronousTestCase):
    """
    A CA file, a client certificate and its key.
    """

    def setUp(self) -> None:
        """
        All three, in files.
        """
        self.folder = folder(self)
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(ONE.pem)
        self.certificate, self.key = MINE.write(self.folder, "client")
        self.config = self.load(client_certificate=str(self.certificate), client_key=str(self.key))

    def load(self, **settings: str) -> Config:
        """
        A configuration with this CA file.
        """
        options = {"ca_file": [str(self.ca)], **{key: [value] for key, value in settings.items()}}
        return load(options, {}).config

    def problems(self) -> list[str]:
        """
        What is wrong with the files now.
        """
        return self.assertRaises(ConfigError, read_usable_tls_files, self.config).problems

    def test_change_is_detected_by_contents(self) -> None:
        """
        A file that is written again as it was has not changed, whatever its date; one with other contents has.
        """
        before = read_tls_files(self.config)
        self.ca.write_bytes(ONE.pem)
        os.utime(self.ca, (1, 1))
        self.assertEqual([], read_tls_files(self.config).changes_since(before))
        self.ca.write_bytes(OTHER.pem)
        self.assertEqual(["ca_file: new contents"], read_tls_files(self.config).changes_since(before))
        YOURS.write(self.folder, "client")
        changes = ["ca_file: new contents", "client_certificate: new contents", "client_key: new contents"]
        self.assertEqual(changes, read_tls_files(self.config).changes_since(before))

    def test_unusable_files_are_named_with_the_reason(self) -> None:
        """
        With what is wrong with them.
        """
        self.ca.unlink()
        self.assertEqual([f"ca_file: '{self.ca}' cannot be read: no such file or directory"], self.problems())
        self.ca.write_bytes(b"")
        self.assertEqual([f"ca_file: '{self.ca}' holds no PEM certificate that can be read"], self.problems())
        self.ca.write_bytes(ONE.pem)
        self.key.write_bytes(YOURS.key_pem)
        self.assertEqual(
            [f"client_key: is not the key of the first certificate in '{self.certificate}'"], self.problems()
        )
        self.key.write_bytes(MINE.key_pem[:-40])
        self.assertEqual(
            [f"client_key: '{self.key}' holds no PEM key that can be read without a passphrase"], self.problems()
        )

    def test_file_that_is_cut_off_is_not_used(self) -> None:
        """
        Wherever it is cut: the first of two CAs alone is not what was meant.
        """
        both = ONE.pem + OTHER.pem
        for length in range(len(ONE.pem) + 30, len(both) - 2, 37):
            self.ca.write_bytes(both[:length])
            self.assertEqual(
                [f"ca_file: '{self.ca}' is cut off: 2 certificates begin in it, 1 can be read"], self.problems()
            )
            with self.assertRaisesRegex(ConfigError, "is cut off"):
                self.load()

    def test_system_store_is_used_and_watched_without_a_ca_file(self) -> None:
        """
        Is used if no CA file is named, and watched then: its file, and what is in its directory.
        """
        store = self.folder / "store"
        store.mkdir()
        (store / "one.pem").write_bytes(ONE.pem)
        for variable, path in (("SSL_CERT_FILE", self.ca), ("SSL_CERT_DIR", store)):
            self.patch(os, "environ", {**os.environ, variable: str(path)})
        self.assertLessEqual({self.ca, store}, set(system_store()))
        config = load({}, {}).config
        self.assertEqual(system_store(), watched_paths(config))
        before = read_tls_files(config)
        self.assertIsNone(before.ca_file)
        (store / "two.pem").write_bytes(OTHER.pem)
        later = read_tls_files(config)
        self.assertEqual(["the system's trust store: new contents"], later.changes_since(before))
        self.ca.write_bytes(OTHER.pem)
        self.assertNotEqual(later, read_tls_files(config))
        self.assertNotIn(store, watched_paths(self.config))


class WatchTests(SynchronousTestCase):
    """
    Changes on disk.
    """

    def setUp(self) -> None:
        """
        A file that is watched.
        """
        self.clock = Clock()
        self.path = folder(self) / "ca.pem"
        self.path.write_bytes(ONE.pem)
        self.taken: list[bytes] = []
        self.problem = ""
        self.logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def watch(self, *, is_quiet: bool = False) -> TlsFileWatch:
        """
        Watch it.
        """
        watch = TlsFileWatch(lambda: [self.path], self.take, clock=self.clock, is_quiet=is_quiet)
        watch.startService()
        self.addCleanup(watch.stopService)
        return watch

    def take(self) -> list[str]:
        """
        Called by the watch.
        """
        self.taken.append(self.path.read_bytes())
        if self.problem:
            raise ConfigError([self.problem])
        return ["ca_file: new contents"]

    def look(self, times: int = 1) -> None:
        """
        Have it look.
        """
        self.clock.pump([INTERVAL] * times)

    def lines(self) -> list[str]:
        """
        What was logged.
        """
        return [formatEvent(event) for event in self.logged]

    def test_change_is_applied_once_the_file_is_stable(self) -> None:
        """
        Not while the file is still written; once, and told once.
        """
        self.watch()
        self.look(3)
        for size in (100, 200, len(OTHER.pem)):
            self.path.write_bytes(OTHER.pem[:size])
            self.look()
        self.assertEqual([], self.taken)
        self.look(5)
        self.assertEqual([OTHER.pem], self.taken)
        self.assertEqual(["ca_file: new contents: connections to upstreams are made anew"], self.lines())

    def test_replaced_file_of_the_same_size_and_date_is_noticed(self) -> None:
        """
        Is another file.
        """
        self.watch()
        found = self.path.stat()
        other = Path(f"{self.path}.new")
        other.write_bytes(ONE.pem)
        os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
        other.rename(self.path)
        self.look(2)
        self.assertEqual(1, len(self.taken))

    def test_unusable_file_is_logged_once(self) -> None:
        """
        Until the file is a good one; then a new problem is news.
        """
        self.watch()
        self.problem = "ca_file: is cut off"
        for garbage in (b"a", b"bb"):
            self.path.write_bytes(garbage)
            self.look(4)
        told = ["ca_file: is cut off; its previous contents stay in use"]
        self.assertEqual((2, told), (len(self.taken), self.lines()))
        self.problem = ""
        self.path.write_bytes(OTHER.pem)
        self.look(2)
        self.assertEqual(2, len(self.lines()))
        self.problem = "ca_file: is cut off"
        self.path.write_bytes(b"a")
        self.look(2)
        self.assertEqual([*told, *told], [line for line in self.lines() if "cut off" in line])

    def test_removed_file_keeps_the_former_contents(self) -> None:
        """
        Is a change like any other: its previous contents stay in use, and that is told once.
        """
        config = load({"ca_file": [str(self.path)]}, {}).config
        self.patch(self, "take", lambda: read_tls_files(config).changes_since(read_tls_files(config)))
        self.watch()
        self.path.unlink()
        self.look(6)
        told = f"ca_file: '{self.path}' cannot be read: no such file or directory; its previous contents stay in use"
        self.assertEqual([told], self.lines())

    def test_worker_applies_changes_without_logging(self) -> None:
        """
        A worker takes changes as well, and leaves it to its supervisor to tell of them.
        """
        self.watch(is_quiet=True)
        self.path.write_bytes(OTHER.pem)
        self.look(2)
        self.problem = "no"
        self.path.write_bytes(b"a")
        self.look(2)
        self.assertEqual((2, []), (len(self.taken), self.lines()))

    def test_stop_leaves_no_timer(self) -> None:
        """
        Nothing is left.
        """
        watch = self.watch()
        watch.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())
