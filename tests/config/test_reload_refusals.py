"""
What a reload may not take back.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.describe import default_as_toml
from dotproxy.config.load import Loaded, load
from dotproxy.config.reload_refusals import without_fallbacks
from dotproxy.config.schema import BY_KEY, SETTINGS
from dotproxy.errors import ConfigError
from dotproxy.testing.certificates import Authority
from tests.config.test_schema import folder

PIN = "sxDbe4S5sNkmkqq8b5EdBi7RKtEY5hhR23rHRLMRTMs="
OTHER_PIN = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

#: Those that decide who is asked, believed or served, wherever they are in the schema.
GUARDED = {"upstream", "bootstrap", "ca_file", "client_certificate", "tls_minimum", "tls_ciphers", "allow_from"}


class FallbackTests(SynchronousTestCase):
    """
    Two configurations, one after the other.
    """

    def setUp(self) -> None:
        """
        Have a place for files.
        """
        self.folder = folder(self)

    def file(self, text: str) -> str:
        """
        A configuration file.
        """
        path = self.folder / "dotproxy.toml"
        path.write_text(text, "utf-8")
        return str(path)

    def problems(self, before: Loaded, fresh: Loaded) -> list[str]:
        """
        What is said of the second; nothing if it is accepted.
        """
        try:
            self.assertIs(fresh.config, without_fallbacks(before.config, fresh))
        except ConfigError as error:
            return error.problems
        return []

    def values(self) -> dict[str, str]:
        """
        For each guarded setting a value that is not the default, as an option or a variable has it.
        """
        authority = Authority()
        certificate, self.key = authority.issue(["client.test"]).write(self.folder, "one")
        ca_file = self.folder / "ca.pem"
        ca_file.write_bytes(authority.pem)
        return {
            "upstream": "tls://10.0.0.53#dns.corp.example",
            "bootstrap": "tls://10.0.0.53#dns.corp.example",
            "ca_file": str(ca_file),
            "client_certificate": str(certificate),
            "tls_minimum": "1.3",
            "tls_ciphers": "ECDHE+AESGCM",
            "allow_from": "10.0.0.0/24",
        }

    def test_guarded_settings_are_listed(self) -> None:
        """
        What decides who is asked, believed and served.
        """
        self.assertLessEqual(GUARDED, {setting.key for setting in SETTINGS if setting.is_guarded})

    def test_fall_back_of_each_guarded_setting_is_refused(self) -> None:
        """
        One line: the key, what it was and would be, and how to have that.
        """
        for key, value in self.values().items():
            more = {"client_key": [str(self.key)]} if key == "client_certificate" else {}
            plain = load({}, {})
            for before in (
                load({key: [value], **more}, {}),
                load(more, {BY_KEY[key].variable: value}),
                load(more, {}, self.file(f'{key} = "{value}"')),
            ):
                (problem,) = self.problems(before, plain)
                shown = value.replace("53#", "53:853#")
                self.assertTrue(
                    problem.startswith(f"{key}: nothing sets it any more, and it would fall back from {shown} to the"),
                    problem,
                )
                self.assertTrue(
                    problem.endswith(f"if that is meant, write {key} = {default_as_toml(BY_KEY[key])}, or restart")
                )

    def test_refusal_has_the_documented_line(self) -> None:
        """
        As an operator sees it.
        """
        (problem,) = self.problems(load({"upstream": ["10.0.0.53#dns.corp.example"]}, {}), load({}, {}))
        self.assertEqual(
            "upstream: nothing sets it any more, and it would fall back from tls://10.0.0.53:853#dns.corp.example to"
            ' the default, cloudflare quad9; if that is meant, write upstream = ["cloudflare", "quad9"], or restart',
            problem,
        )

    def test_written_default_is_accepted(self) -> None:
        """
        A default that is written out is no fall-back.
        """
        for key, value in self.values().items():
            more = {"client_key": [str(self.key)]} if key == "client_certificate" else {}
            fresh = load({}, {}, self.file(f"{key} = {default_as_toml(BY_KEY[key])}"))
            self.assertEqual([], self.problems(load({key: [value], **more}, {}), fresh), key)

    def test_other_values_are_accepted(self) -> None:
        """
        Also such as are wider, since somebody wrote them; and what was the default may stay it.
        """
        before = load({"upstream": ["quad9"], "allow_from": ["10.0.0.0/24"], "tls_minimum": ["1.3"]}, {})
        fresh = load({"upstream": ["google"], "allow_from": ["0.0.0.0/0"], "tls_minimum": ["1.2"]}, {})
        self.assertEqual([], self.problems(before, fresh))
        self.assertEqual([], self.problems(load({}, {}), load({}, {})))
        spelled_out = load({"upstream": ["cloudflare", "quad9"]}, {})
        self.assertEqual([], self.problems(spelled_out, load({}, {})))

    def test_all_refusals_are_reported_in_order(self) -> None:
        """
        One for each setting, in the order of the schema.
        """
        before = load({"upstream": ["google"], "allow_from": ["10.0.0.0/24"], "tls_minimum": ["1.3"]}, {})
        told = [problem.partition(":")[0] for problem in self.problems(before, load({}, {}))]
        self.assertEqual(["upstream", "tls_minimum", "allow_from"], told)

    def test_other_settings_fall_back(self) -> None:
        """
        Falls back as it always did.
        """
        before = load({"padding": ["256"], "query_timeout": ["2"], "cache_min_ttl": ["60"]}, {})
        self.assertEqual([], self.problems(before, load({}, {})))


class UpstreamTests(SynchronousTestCase):
    """
    Upstreams that are named again.
    """

    def problems(self, before: list[str], fresh: list[str]) -> list[str]:
        """
        What is said of the second list.
        """
        loaded = load({"upstream": fresh}, {})
        try:
            without_fallbacks(load({"upstream": before}, {}).config, loaded)
        except ConfigError as error:
            return error.problems
        return []

    def test_removed_pin_is_refused(self) -> None:
        """
        Is refused, also with another port, or where a preset stands for the address.
        """
        self.assertEqual(
            [
                (
                    "upstream (--upstream): dns.example (192.0.2.1) has 1 pin, and would have none as"
                    " tls://192.0.2.1:853#dns.example; if that is meant, restart"
                )
            ],
            self.problems([f"192.0.2.1#dns.example?pin-sha256={PIN}"], ["192.0.2.1#dns.example"]),
        )
        for before, fresh in (
            (f"192.0.2.1:8853#dns.example?pin-sha256={PIN}", "192.0.2.1:885#dns.example"),
            (f"quad9?pin-sha256={PIN}", "quad9"),
            (f"quad9?pin-sha256={PIN}", "9.9.9.9#dns.quad9.net"),
        ):
            (problem,) = self.problems([before, "google"], ["google", fresh])
            self.assertIn("has 1 pin, and would have none", problem)
        (problem,) = self.problems(
            ["192.0.2.1#a.example", f"tls://dns.example?pin-sha256={PIN}"], ["192.0.2.1#a.example", "tls://dns.example"]
        )
        self.assertIn("dns.example has 1 pin, and would have none as tls://dns.example", problem)

    def test_removed_name_is_refused(self) -> None:
        """
        Is refused: the certificate would have to be for something else.
        """
        (problem,) = self.problems(["192.0.2.1#dns.example"], ["192.0.2.1"])
        self.assertEqual(
            "upstream (--upstream): dns.example (192.0.2.1) is verified as dns.example, and would be verified by its"
            " address as tls://192.0.2.1:853; if that is meant, restart",
            problem,
        )

    def test_changed_upstreams_are_accepted(self) -> None:
        """
        Another pin or name, fewer upstreams, others, or one without pins beside one that keeps them.
        """
        pinned = f"192.0.2.1#dns.example?pin-sha256={PIN}"
        for before, fresh in (
            ([pinned], [f"192.0.2.1#dns.example?pin-sha256={OTHER_PIN}"]),
            ([pinned], [f"192.0.2.1#other.example?pin-sha256={PIN}"]),
            ([pinned, "quad9"], ["quad9"]),
            ([pinned, "quad9"], [pinned]),
            ([pinned], ["192.0.2.2#dns.example"]),
            ([pinned], [pinned, "192.0.2.1:8853#dns.example"]),
            (["192.0.2.1", pinned.replace(".1#", ".1:8853#")], ["192.0.2.1"]),
            (["192.0.2.1"], ["192.0.2.1"]),
        ):
            self.assertEqual([], self.problems(before, fresh), (before, fresh))
