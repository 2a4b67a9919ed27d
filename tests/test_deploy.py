"""
The files in deploy and the Dockerfile, against each other and against the program.
"""

import fnmatch
import json
import os
import re
import shlex
import sys
import tomllib
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli import main as cli
from dotproxy.config.load import load
from tests.config.test_schema import folder

TOP = Path(__file__).parent.parent


def check(arguments: list[str], environ: dict[str, str], case: SynchronousTestCase) -> tuple[int, str, str]:
    """
    Run ``dotproxy check`` with these; return its exit code, output and complaints.
    """
    out, err = StringIO(), StringIO()
    case.patch(os, "environ", environ)
    case.patch(sys, "stdout", out)
    case.patch(sys, "stderr", err)
    return cli.main(["check", *arguments]), out.getvalue(), err.getvalue()


class DockerfileTests(SynchronousTestCase):
    """
    The container image, as far as it can be seen without building it.
    """

    def setUp(self) -> None:
        """
        The Dockerfile's instructions, continued lines joined.
        """
        text = (TOP / "Dockerfile").read_text("utf-8")
        lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
        self.instructions = [line.split(maxsplit=1) for line in lines if line.strip()]

    def test_copied_files_are_in_the_build_context(self) -> None:
        """
        Each file that is copied is there, and .dockerignore does not leave it out.
        """
        copied = [shlex.split(rest) for word, rest in self.instructions if word == "COPY"]
        sources = [source for words in copied if "--from=build" not in words for source in words[:-1]]
        self.assertIn("mypy.ini", sources)
        for source in sources:
            self.assertTrue((TOP / source).exists(), source)
            self.assertTrue(reaches(source), f".dockerignore leaves out {source}")

    def test_both_stages_have_the_same_base(self) -> None:
        """
        Both stages are made from the same base, which can be another one.
        """
        self.assertIn(["ARG", "BASE=python:3.13-slim"], self.instructions)
        bases = [rest.split()[0] for word, rest in self.instructions if word == "FROM"]
        self.assertEqual(["${BASE}", "${BASE}"], bases)

    def test_health_check_is_the_same_in_both_formats(self) -> None:
        """
        The Dockerfile and compose have the same check, and the image serves /healthz where it says, in any format.
        """
        checks = [rest for word, rest in self.instructions if word == "HEALTHCHECK"]
        self.assertEqual(1, len(checks))
        command = json.loads(checks[0].partition("CMD ")[2])
        compose = yaml.safe_load((TOP / "docker-compose.yml").read_text("utf-8"))
        self.assertEqual(["CMD", *command], compose["services"]["dotproxy"]["healthcheck"]["test"])
        self.assertEqual(["dotproxy", "healthcheck"], command)
        config = load({}, {}, str(TOP / "deploy" / "docker" / "dotproxy.toml")).config
        assert config.admin_listen is not None
        self.assertEqual(("0.0.0.0", 9953), (config.admin_listen.host, config.admin_listen.port))
        exposed = " ".join(rest for word, rest in self.instructions if word == "EXPOSE").split()
        self.assertEqual({"9953/tcp", "5300/udp", "5300/tcp"}, set(exposed))

    def test_compose_environment_is_accepted(self) -> None:
        """
        Its environment is taken by the configuration of the image, without a warning.
        """
        compose = yaml.safe_load((TOP / "docker-compose.yml").read_text("utf-8"))
        environ = dict(compose["services"]["dotproxy"]["environment"])
        code, text, complaint = check(["--config", str(TOP / "deploy/docker/dotproxy.toml")], environ, self)
        self.assertEqual((0, ""), (code, complaint))
        self.assertIn("# DOTPROXY_UPSTREAM", text)


def reaches(path: str) -> bool:
    """
    Whether a path of the project gets through .dockerignore: the last pattern that matches it or a parent decides.
    """
    result = True
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (TOP / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if any(fnmatch.fnmatchcase(one, pattern) for one in parents):
            result = line.startswith("!")
    return result


class MemoryTests(SynchronousTestCase):
    """
    What the service may take, wherever it runs.
    """

    def test_memory_limits_agree(self) -> None:
        """
        The unit, Compose and Kubernetes have the same, which is what docs/deploy.md says of the defaults.
        """
        unit = (TOP / "deploy" / "systemd" / "dotproxy.service").read_text("utf-8")
        compose = yaml.safe_load((TOP / "docker-compose.yml").read_text("utf-8"))["services"]["dotproxy"]
        pods = (TOP / "deploy" / "kubernetes" / "dotproxy.yaml").read_text("utf-8")
        (deployment,) = [one for one in yaml.safe_load_all(pods) if one["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        limits = (re.findall("^MemoryMax=(.*)$", unit, re.MULTILINE), compose["mem_limit"])
        self.assertEqual((["512M"], "512m"), limits)
        self.assertEqual("512Mi", container["resources"]["limits"]["memory"])
        config = load({}, {}).config
        self.assertEqual(512 << 20, (256 << 20) + 2 * config.cache_memory)
        self.assertEqual(1, config.workers)
        self.assertIn("`MemoryMax=512M`", (TOP / "docs" / "deploy.md").read_text("utf-8"))

    def test_unit_omits_memory_settings_that_break_the_service(self) -> None:
        """
        MemoryDenyWriteExecute would end every handshake (cffi), and MemoryHigh would stop the service where there is
        nothing to reclaim.
        """
        unit = (TOP / "deploy" / "systemd" / "dotproxy.service").read_text("utf-8")
        settings = dict(re.findall("^([A-Za-z]+)=(.*)$", unit, re.MULTILINE))
        self.assertTrue({"MemoryDenyWriteExecute", "MemoryHigh"}.isdisjoint(settings))
        self.assertEqual(("continue", "yes"), (settings["OOMPolicy"], settings["NoNewPrivileges"]))


class KubernetesTests(SynchronousTestCase):
    """
    The manifest in deploy/kubernetes.
    """

    def setUp(self) -> None:
        """
        Its objects, by kind.
        """
        text = (TOP / "deploy" / "kubernetes" / "dotproxy.yaml").read_text("utf-8")
        self.objects: dict[str, Any] = {one["kind"]: one for one in yaml.safe_load_all(text)}
        self.pod = self.objects["Deployment"]["spec"]["template"]["spec"]
        (self.container,) = self.pod["containers"]

    def configured(self) -> dict[str, Any]:
        """
        What `dotproxy check` makes of the arguments, environment and file of the container, all of them.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text(self.objects["ConfigMap"]["data"]["dotproxy.toml"], "utf-8")
        command, *arguments = self.container["args"]
        self.assertEqual("run", command)
        (mount,) = self.container["volumeMounts"]
        self.assertIn(f"{mount['mountPath']}/dotproxy.toml", arguments)
        arguments = [word.replace(f"{mount['mountPath']}/dotproxy.toml", str(path)) for word in arguments]
        environ = {one["name"]: one["value"] for one in self.container["env"]}
        code, text, complaint = check(arguments, environ, self)
        self.assertEqual((0, ""), (code, complaint))
        return tomllib.loads(text)

    def test_manifest_is_a_valid_configuration(self) -> None:
        """
        `dotproxy check` accepts file, arguments and environment without a warning, and they listen where the ports are.
        """
        config = self.configured()
        ports = {(one["name"], one["containerPort"], one["protocol"]) for one in self.container["ports"]}
        self.assertEqual({("dns-udp", 5300, "UDP"), ("dns-tcp", 5300, "TCP"), ("admin", 9953, "TCP")}, ports)
        self.assertEqual((["0.0.0.0:5300"], "0.0.0.0:9953"), (config["listen"], config["admin_listen"]))
        self.assertEqual("json", config["log_format"])

    def test_references_in_the_manifest_exist(self) -> None:
        """
        Probes, Service, volumes and selectors name what is there.
        """
        names = {one["name"] for one in self.container["ports"]}
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            self.assertEqual(path, self.container[probe]["httpGet"]["path"])
            self.assertIn(self.container[probe]["httpGet"]["port"], names)
        service = self.objects["Service"]["spec"]
        self.assertEqual({53}, {one["port"] for one in service["ports"]})
        for one in service["ports"]:
            (port,) = [port for port in self.container["ports"] if port["name"] == one["targetPort"]]
            self.assertEqual(port["protocol"], one["protocol"])
        deployment = self.objects["Deployment"]["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        self.assertEqual(labels, deployment["selector"]["matchLabels"])
        self.assertEqual(labels, service["selector"])
        (volume,) = self.pod["volumes"]
        self.assertEqual(self.objects["ConfigMap"]["metadata"]["name"], volume["configMap"]["name"])
        annotations = deployment["template"]["metadata"]["annotations"]
        self.assertEqual("9953", annotations["prometheus.io/port"])

    def test_pod_has_the_least_rights(self) -> None:
        """
        The user of the image, no capability, nothing writable.
        """
        dockerfile = (TOP / "Dockerfile").read_text("utf-8")
        self.assertIn("\nUSER 65532:65532\n", dockerfile)
        whole, own = self.pod["securityContext"], self.container["securityContext"]
        self.assertEqual((True, 65532, 65532), (whole["runAsNonRoot"], whole["runAsUser"], whole["runAsGroup"]))
        self.assertIs(True, own["readOnlyRootFilesystem"])
        self.assertIs(False, own["allowPrivilegeEscalation"])
        self.assertEqual({"drop": ["ALL"]}, own["capabilities"])
