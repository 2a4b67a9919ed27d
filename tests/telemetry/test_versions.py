"""
The versions of what dotproxy stands on.
"""

import platform

from twisted.trial.unittest import SynchronousTestCase

import twisted
from dotproxy.telemetry.versions import openssl_version, versions


class VersionTests(SynchronousTestCase):
    """
    As those libraries say.
    """

    def test_all_versions_are_reported(self) -> None:
        """
        Python, Twisted, OpenSSL and pyOpenSSL, each with a version.
        """
        found = versions()
        self.assertEqual(["Python", "Twisted", "OpenSSL", "pyOpenSSL"], list(found))
        self.assertEqual((platform.python_version(), twisted.__version__), (found["Python"], found["Twisted"]))
        for version in found.values():
            self.assertRegex(version, r"^[0-9]+\.[0-9]")

    def test_openssl_version_is_shortened(self) -> None:
        """
        Its version alone; of another library all that it says.
        """
        self.assertEqual("3.5.4", openssl_version("OpenSSL 3.5.4 30 Sep 2025"))
        self.assertEqual("LibreSSL 4.1.0", openssl_version("LibreSSL 4.1.0"))
        self.assertEqual("OpenSSL", openssl_version("OpenSSL"))
