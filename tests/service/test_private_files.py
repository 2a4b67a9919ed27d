"""
Files that only this user may have written.
"""

import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.private_files import NotPrivate, read_private, write_private
from tests.config.test_schema import folder


class PrivateFileTests(SynchronousTestCase):
    """
    Written, and read.
    """

    def setUp(self) -> None:
        """
        A file.
        """
        self.path = folder(self) / "file"
        write_private(self.path, b"octets")

    def refused(self, reason: str, **more: Any) -> None:
        """
        It is not read, for this reason.
        """
        told = str(self.assertRaises(NotPrivate, read_private, self.path, 100, **more))
        self.assertIn(reason, told)

    def test_written_file_is_read_back_with_mode_0600(self) -> None:
        """
        As a secret, too; nobody else may read it.
        """
        self.assertEqual(b"octets", read_private(self.path, 6, is_secret=True))
        self.path.chmod(0o644)
        self.assertEqual(b"octets", read_private(self.path, 6))
        self.refused("others may read it (mode 0644)", is_secret=True)

    def test_owner_must_be_root_or_this_user(self) -> None:
        """
        Root and this process's user may have written it, and nobody else.
        """
        real = os.fstat

        def owned_by(uid: int) -> None:
            def fstat(descriptor: int) -> os.stat_result:
                found = list(real(descriptor))
                found[4] = uid
                return os.stat_result(found)

            self.patch(os, "fstat", fstat)

        self.patch(os, "geteuid", lambda: 1000)
        for uid in (0, 1000):
            owned_by(uid)
            self.assertEqual(b"octets", read_private(self.path, 6))
        for uid in (1001, 65534):
            owned_by(uid)
            self.refused(f"it belongs to user {uid}, not to user 1000 or root")

    def test_large_file_is_not_read(self) -> None:
        """
        By its size, before anything is read.
        """
        self.assertRaises(NotPrivate, read_private, self.path, 5)
        os.truncate(self.path, 10 << 30)
        self.refused(f"it has {10 << 30} octets")

    def test_world_writable_directory_needs_the_sticky_bit(self) -> None:
        """
        With the sticky bit nobody can replace others' files; without it nothing is read, or written.
        """
        self.path.parent.chmod(0o1777)
        self.assertEqual(b"octets", read_private(self.path, 6))
        self.path.parent.chmod(0o777)
        self.refused("everybody may replace files in")
        self.assertRaises(NotPrivate, write_private, self.path, b"")
        self.path.parent.chmod(0o2775)  # a volume with a group of its own, as Kubernetes makes it
        self.assertEqual(b"octets", read_private(self.path, 6))

    def test_symbolic_link_is_replaced(self) -> None:
        """
        What it points at is not touched.
        """
        other = self.path.with_name("other")
        other.write_bytes(b"precious")
        self.path.unlink()
        self.path.symlink_to(other)
        self.refused("it is a symbolic link")
        self.path.with_name(".file.new").symlink_to(other)
        write_private(self.path, b"new")
        self.assertEqual((b"precious", b"new"), (other.read_bytes(), read_private(self.path, 3)))
        self.assertFalse(self.path.is_symlink())

    def test_failed_write_leaves_the_former_file(self) -> None:
        """
        What was there before stays.
        """

        def rename(*given: Any, **more: Any) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "rename", rename)
        self.assertRaises(OSError, write_private, self.path, b"new")
        self.assertEqual([self.path], list(self.path.parent.iterdir()))
        self.assertEqual(b"octets", read_private(self.path, 6))

    def test_missing_file_or_directory_gives_none(self) -> None:
        """
        Nor a directory.
        """
        for path in (self.path.with_name("none"), Path("/nowhere/none")):
            self.assertRaises(FileNotFoundError, read_private, path, 1)
