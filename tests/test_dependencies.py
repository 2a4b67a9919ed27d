"""
What the container image is made of: locked, by version and hash.
"""

import importlib.util
import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from twisted.trial.unittest import SynchronousTestCase

TOP = Path(__file__).parent.parent
DOCKER = TOP / "deploy" / "docker"


def script(name: str) -> Any:
    """
    A program of deploy/docker, imported.
    """
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(name: str) -> dict[str, tuple[Version, list[str]]]:
    """
    What a lock file holds: by name, the version and the hashes.
    """
    found = {}
    text = (DOCKER / name).read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip().startswith("#") or not line.strip():
            continue
        wanted = Requirement(line.split("--hash", maxsplit=1)[0].strip())
        (pin,) = wanted.specifier
        assert pin.operator == "==", line
        found[canonicalize_name(wanted.name)] = (Version(pin.version), re.findall(r"--hash=(\S+)", line))
    return found


class LockTests(SynchronousTestCase):
    """
    deploy/docker/*.lock.
    """

    def test_requirements_of_pyproject_are_locked(self) -> None:
        """
        Each requirement of pyproject.toml is there, in a version it allows; of the build's, those of the hook, too.
        """
        lock = script("lock")
        for name, requirements in (
            ("requirements.lock", lock.runtime_requirements()),
            ("build-requirements.lock", lock.build_requirements()),
        ):
            held = locked(name)
            self.assertGreaterEqual(len(requirements), 6)
            for text in requirements:
                wanted = Requirement(text)
                version, _ = held[canonicalize_name(wanted.name)]
                self.assertIn(version, wanted.specifier, f"{text} in {name}: make lock")

    def test_extras_are_not_locked(self) -> None:
        """
        What tests and developers need is not.
        """
        extras = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        others = {canonicalize_name(Requirement(one).name) for extra in extras.values() for one in extra}
        self.assertEqual(set(), set(locked("requirements.lock")) & others)

    def test_transitive_requirements_are_locked(self) -> None:
        """
        Whatever a locked package needs to run is locked, too, in a version it allows.
        """
        held = locked("requirements.lock")
        for name in held:
            try:
                needs = requires(name) or []
            except PackageNotFoundError:
                continue  # for another platform
            for wanted in map(Requirement, needs):
                if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                    self.assertIn(canonicalize_name(wanted.name), held, f"{name} needs it")

    def test_every_file_has_a_hash(self) -> None:
        """
        SHA-256 of each file; of what is compiled for a platform, those of many.
        """
        for name in ("requirements.lock", "build-requirements.lock"):
            for package, (_, hashes) in locked(name).items():
                self.assertTrue(hashes, package)
                for one in hashes:
                    self.assertRegex(one, r"^sha256:[0-9a-f]{64}$")
            for package in ("cryptography", "cffi", "zope-interface"):
                self.assertGreater(len(locked(name)[package][1]), 20)

    def test_build_and_run_lock_files_agree(self) -> None:
        """
        The wheel is compiled with what it will run with.
        """
        built = locked("build-requirements.lock")
        for name, entry in locked("requirements.lock").items():
            self.assertEqual(entry, built[name])

    def test_lock_files_name_no_index(self) -> None:
        """
        A lock file says what, not from where.
        """
        for path in DOCKER.glob("*.lock"):
            self.assertNotRegex(path.read_text("utf-8"), r"://|index-url|find-links|trusted-host")


class DockerfileTests(SynchronousTestCase):
    """
    How the image is made.
    """

    def setUp(self) -> None:
        """
        Its stages.
        """
        text = (TOP / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        self.commands = [part.strip() for line in lines for part in line.removeprefix("RUN ").split("&&")]
        self.last = text.rpartition("\nFROM ")[2]

    def test_pip_installs_by_hash_only(self) -> None:
        """
        pip takes wheels with the hashes of a lock file, or reaches no index at all.
        """
        found = [command for command in self.commands if re.search(r"pip (install|wheel|download)", command)]
        self.assertEqual(4, len(found))
        for command in found:
            safe = {"--require-hashes", "--only-binary=:all:"} <= set(command.split())
            self.assertTrue(safe or "--no-index" in command.split(), command)
        copied = next(command for command in self.commands if command.startswith("COPY") and ".lock" in command)
        for name in re.findall(r"-r (\S+)", " ".join(found)):
            self.assertIn(f"deploy/docker/{name}", copied)
            self.assertTrue((DOCKER / name).is_file())

    def test_last_stage_has_no_compiler(self) -> None:
        """
        Compiler, pip and the build's environment stay behind.
        """
        self.assertNotRegex(self.last, r"gcc|libc6-dev|pip |/opt/build")
        self.assertIn("pip uninstall --yes pip", " ".join(self.commands))


class AuditTests(SynchronousTestCase):
    """
    deploy/docker/audit.py.
    """

    def setUp(self) -> None:
        """
        What it makes of an answer.
        """
        self.judge = script("audit").judge

    def judged(self, *dependencies: dict[str, Any], said: str = "") -> tuple[str, bool]:
        """
        Its verdict on what pip-audit found.
        """
        verdict: tuple[str, bool] = self.judge("some.lock", json.dumps({"dependencies": list(dependencies)}), said)
        return verdict

    def test_audit_without_findings_succeeds(self) -> None:
        """
        It says so, and how many there are.
        """
        good = {"name": "attrs", "version": "1", "vulns": []}
        self.assertEqual(("some.lock: 1 packages, no known vulnerability", True), self.judged(good))

    def test_vulnerability_fails_the_audit(self) -> None:
        """
        Package, version, identifier, and where it is fixed.
        """
        bad = {"name": "attrs", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
        self.assertEqual(("some.lock: attrs 1: CVE-1, fixed in 2", False), self.judged(bad))

    def test_unknown_package_fails_the_audit(self) -> None:
        """
        If others are.
        """
        good, unknown = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
        text, is_right = self.judged(good, unknown)
        self.assertIn("b: not known", text)
        self.assertFalse(is_right)

    def test_unreachable_database_is_no_failure(self) -> None:
        """
        Where it knows nothing, or nobody is reached, nothing fails, and nothing is said to be all right.
        """
        for text, is_right in (
            self.judged({"name": "b", "skip_reason": "not found"}),
            self.judge("some.lock", "", "Traceback\nrequests.exceptions.ConnectionError: no route"),
        ):
            self.assertIn("NOT AUDITED", text)
            self.assertNotIn("\n", text)
            self.assertTrue(is_right)

    def test_usage_error_fails_the_audit(self) -> None:
        """
        An option that pip-audit does not know, or a lock file without packages.
        """
        self.assertFalse(self.judge("some.lock", "", "pip-audit: error: unrecognized arguments")[1])
        self.assertFalse(self.judged()[1])

    def test_exit_code_is_1_for_a_vulnerability(self) -> None:
        """
        1 if one lock file has a vulnerability.
        """
        bad = {"name": "attrs", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": []}]}
        audit = script("audit")
        told: list[str] = []
        audit.print = told.append
        self.assertEqual(1, audit.main(lambda path: (json.dumps({"dependencies": [bad]}), "")))
        self.assertIn("fixed in no version", told[0])
        good = {"name": "attrs", "version": "1", "vulns": []}
        self.assertEqual(0, audit.main(lambda path: (json.dumps({"dependencies": [good]}), "")))
