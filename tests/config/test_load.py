"""
Where values come from, and what is said of those that are wrong.
"""

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import Loaded, load, split
from dotproxy.config.schema import SETTINGS
from dotproxy.errors import ConfigError
from dotproxy.testing.certificates import Authority
from tests.config.test_schema import folder


class LoadTests(SynchronousTestCase):
    """
    Loading.
    """

    def file(self, text: str) -> str:
        """
        A TOML file.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text(text, "utf-8")
        return str(path)

    def problems(self, *args: object) -> list[str]:
        """
        What is said of a configuration that cannot be used.
        """
        return self.assertRaises(ConfigError, load, *args).problems

    def upstreams(self, loaded: Loaded) -> list[str]:
        """
        The upstreams, as they are spelled.
        """
        return [str(upstream) for upstream in loaded.config.upstream]

    def test_every_setting_has_its_default(self) -> None:
        """
        Without anything given everything has its default, and says so.
        """
        loaded = load({}, {})
        self.assertEqual(["127.0.0.1:5300"], [str(address) for address in loaded.config.listen])
        self.assertEqual(["cloudflare", "quad9"], self.upstreams(loaded))
        self.assertEqual(
            (4.0, 1.5, None, "failover"),
            (loaded.config.query_timeout, loaded.config.attempt_timeout, loaded.config.ca_file, loaded.config.policy),
        )
        self.assertEqual({"default"}, set(loaded.sources.values()))

    def test_command_line_wins_over_environment_and_file(self) -> None:
        """
        The command line wins over the environment, the environment over the file.
        """
        path = self.file('query_timeout = 3\nattempt_timeout = 1\npolicy = "random"\nudp_max_size = 4096\n')
        environ = {"DOTPROXY_QUERY_TIMEOUT": "2", "DOTPROXY_ATTEMPT_TIMEOUT": "0.5", "HOME": "/"}
        loaded = load({"query_timeout": ["5", "6"]}, environ, path)
        config, sources = loaded.config, loaded.sources
        self.assertEqual(
            (6.0, 0.5, "random", 4096),
            (config.query_timeout, config.attempt_timeout, config.policy, config.udp_max_size),
        )
        self.assertEqual(
            ["--query-timeout", "DOTPROXY_ATTEMPT_TIMEOUT", path, "default"],
            [sources[key] for key in ("query_timeout", "attempt_timeout", "policy", "listen")],
        )

    def test_lists_split_at_commas_and_spaces(self) -> None:
        """
        A list may be one string, or several, or an array.
        """
        expected = ["quad9", "google", "tls://1.1.1.1:853"]
        as_text = "quad9, google 1.1.1.1"
        self.assertEqual(expected, self.upstreams(load({"upstream": ["quad9,google", "1.1.1.1"]}, {})))
        self.assertEqual(expected, self.upstreams(load({}, {"DOTPROXY_UPSTREAM": as_text})))
        self.assertEqual(expected, self.upstreams(load({}, {}, self.file(f'upstream = "{as_text}"'))))
        array = 'upstream = ["quad9", "google", { address = "1.1.1.1" }]'
        self.assertEqual(expected, self.upstreams(load({}, {}, self.file(array))))
        self.assertEqual(expected[2:], self.upstreams(load({}, {}, self.file('upstream = { address = "1.1.1.1" }'))))
        self.assertEqual(["a", "b", "c"], split(" a,b ,, c\n"))

    def test_environment_may_name_the_file(self) -> None:
        """
        DOTPROXY_CONFIG names a file, which --config overrules.
        """
        one, two = self.file("query_timeout = 2"), self.file("query_timeout = 3")
        self.assertEqual(2.0, load({}, {"DOTPROXY_CONFIG": one}).config.query_timeout)
        self.assertEqual(3.0, load({}, {"DOTPROXY_CONFIG": one}, two).config.query_timeout)

    def test_container_variables_yield_to_settings(self) -> None:
        """
        The three variables of such containers stand for parts of settings, and yield to the settings' own.
        """
        cases = {
            ("192.0.2.1", ""): "tls://192.0.2.1:853",
            ("192.0.2.1", "8853"): "tls://192.0.2.1:8853",
            ("2001:db8::1", "8853"): "tls://[2001:db8::1]:8853",
            ("[2001:db8::1]", "8853"): "tls://[2001:db8::1]:8853",
            ("192.0.2.1#dns.example", "8853"): "tls://192.0.2.1:8853#dns.example",
            ("quad9", ""): "quad9",
        }
        for (host, port), spec in cases.items():
            environ = {"DOTPROXY_UPSTREAM_HOST": host, "DOTPROXY_UPSTREAM_PORT": port}
            self.assertEqual([spec], self.upstreams(load({}, environ)), host)
            self.assertEqual(["google"], self.upstreams(load({}, {**environ, "DOTPROXY_UPSTREAM": "google"})))

    def test_container_host_may_have_scheme_and_port(self) -> None:
        """
        A scheme is no part of the address, and a port that is given twice is not taken for a name.
        """
        for host in ("tls://192.0.2.1", "tls://[2001:db8::1]", "tls://2001:db8::1"):
            environ = {"DOTPROXY_UPSTREAM_HOST": host, "DOTPROXY_UPSTREAM_PORT": "8853"}
            spec = "tls://192.0.2.1:8853" if "192" in host else "tls://[2001:db8::1]:8853"
            self.assertEqual([spec], self.upstreams(load({}, environ)), host)

    def test_two_ports_in_container_variables_are_an_error(self) -> None:
        """
        Where host and port both have a port, that is a problem, and not the name of the upstream.
        """
        for host in ("192.0.2.1:853", "192.0.2.1@853", "[2001:db8::1]:853"):
            environ = {"DOTPROXY_UPSTREAM_HOST": host, "DOTPROXY_UPSTREAM_PORT": "853"}
            (problem,) = self.problems({}, environ)
            source = "upstream (DOTPROXY_UPSTREAM_HOST and DOTPROXY_UPSTREAM_PORT)"
            self.assertEqual(f"{source}: {host!r} has a port already", problem)

    def test_every_setting_is_read_from_every_source(self) -> None:
        """
        Each setting can be given in the file, in its variable and as its option, the later over the earlier.
        """
        for setting in SETTINGS:
            if setting.default in (None, ()):
                continue
            default = setting.default[0] if setting.is_list else setting.default
            path = self.file(f"{setting.key} = {json.dumps(default)}")
            environ = {setting.variable: str(default)}
            for args, source in (
                (({}, {}, path), path),
                (({}, environ, path), setting.variable),
                (({setting.key: [str(default)]}, environ, path), f"--{setting.option}"),
            ):
                loaded = load(*args)
                self.assertEqual(source, loaded.sources[setting.key])
                value = getattr(loaded.config, setting.key)
                self.assertEqual(setting.parse(default), value[0] if setting.is_list else value)
                self.assertEqual({source, "default"}, set(loaded.sources.values()))

    def test_list_replaces_that_of_a_lower_source(self) -> None:
        """
        Values from two sources are not mixed: the higher source's list is the list.
        """
        path = self.file('upstream = ["quad9", "google"]')
        loaded = load({}, {"DOTPROXY_UPSTREAM": "mullvad"}, path)
        self.assertEqual(["mullvad"], self.upstreams(loaded))
        loaded = load({"upstream": ["adguard", "dns-sb"]}, {"DOTPROXY_UPSTREAM": "mullvad"}, path)
        self.assertEqual(["adguard", "dns-sb"], self.upstreams(loaded))

    def test_each_upstream_table_is_one_upstream(self) -> None:
        """
        Each [[upstream]] is one upstream, and what is wrong in it is told with the file's name.
        """
        path = self.file(
            '[[upstream]]\naddress = "192.0.2.1"\nname = "dns.example"\n[[upstream]]\naddress = "::1"\nport = 8853\n'
        )
        self.assertEqual(["tls://192.0.2.1:853#dns.example", "tls://[::1]:8853"], self.upstreams(load({}, {}, path)))
        path = self.file('[[upstream]]\naddress = "192.0.2.1"\nnmae = "dns.example"\n[[upstream]]\nport = 853\n')
        self.assertEqual(
            [
                f"upstream ({path}): an upstream has no nmae; it has address, port, name, pin_sha256, weight",
                f"upstream ({path}): an upstream needs an address",
            ],
            self.problems({}, {}, path),
        )

    def test_listen_port_variable_replaces_the_port(self) -> None:
        """
        DOTPROXY_LISTEN_PORT replaces the port of the file's addresses, or of the default's.
        """
        environ = {"DOTPROXY_LISTEN_PORT": "53"}
        path = self.file('listen = ["0.0.0.0:5300", "[::]:5300"]')
        self.assertEqual("127.0.0.1:53", str(load({}, environ).config.listen[0]))
        self.assertEqual(["0.0.0.0:53", "[::]:53"], [str(a) for a in load({}, environ, path).config.listen])
        both = {**environ, "DOTPROXY_LISTEN": "127.0.0.1:99"}
        self.assertEqual(["127.0.0.1:99"], [str(a) for a in load({}, both, path).config.listen])
        (problem,) = self.problems({}, {"DOTPROXY_LISTEN_PORT": "x"})
        self.assertIn("listen (DOTPROXY_LISTEN_PORT): '127.0.0.1:x': port 'x' is not a number", problem)
        (problem,) = self.problems({}, environ, self.file('listen = "nowhere"'))
        self.assertIn("'nowhere' is not an address to listen on", problem)

    def test_empty_variable_is_unset(self) -> None:
        """
        What a template makes of a value that is not there does no harm.
        """
        self.assertEqual("default", load({}, {"DOTPROXY_POLICY": " "}).sources["policy"])

    def test_empty_string_in_a_file_is_unset_or_an_error(self) -> None:
        """
        As it says, for settings that have no default; for others it is a mistake.
        """
        path = self.file('ca_file = ""\nadmin_listen = ""\ntls_ciphers = ""\n')
        loaded = load({}, {}, path)
        self.assertEqual((None, path), (loaded.config.ca_file, loaded.sources["ca_file"]))
        self.assertEqual((None, None), (loaded.config.admin_listen, loaded.config.tls_ciphers))
        (problem,) = self.problems({}, {}, self.file('policy = ""'))
        self.assertIn("'' is not a policy", problem)
        loaded = load({"ca_file": [""]}, {}, self.file('ca_file = "/nowhere"'))
        self.assertEqual((None, "--ca-file"), (loaded.config.ca_file, loaded.sources["ca_file"]))

    def test_times_and_sizes_have_units_in_every_source(self) -> None:
        """
        In the file as strings, in variables and as options.
        """
        path = self.file('query_timeout = "3s"\ncache_memory = "1MiB"\nserve_stale = 60\n')
        environ = {"DOTPROXY_CACHE_MAX_TTL": "2h", "DOTPROXY_CONNECT_TIMEOUT": "1500ms"}
        config = load({"tcp_idle_timeout": ["1m 30s"], "cache_min_ttl": ["1m"]}, environ, path).config
        self.assertEqual((3.0, 1 << 20, 60.0), (config.query_timeout, config.cache_memory, config.serve_stale))
        self.assertEqual((7200, 1.5), (config.cache_max_ttl, config.connect_timeout))
        self.assertEqual((90.0, 60), (config.tcp_idle_timeout, config.cache_min_ttl))

    def test_all_problems_are_reported_together(self) -> None:
        """
        Each thing that is wrong has its line: the key, where it stands, what is wrong, what would be right.
        """
        path = self.file('querytimeout = 3\npolicy = "best"\nudp_max_size = 1\n')
        environ = {"DOTPROXY_UPSTREM": "quad9", "DOTPROXY_TCP_IDLE_TIMEOUT": "never"}
        problems = self.problems({"listen": ["here", "127.0.0.1:1,127.0.0.1:1"]}, environ, path)
        self.assertEqual(
            [
                f"querytimeout ({path}): no such setting; did you mean query_timeout?",
                (
                    "listen (--listen): 'here' is not an address to listen on; write ADDRESS:PORT, as 127.0.0.1:53 or"
                    " [::1]:53"
                ),
                "listen (--listen): 127.0.0.1:1 is given twice",
                (
                    f"policy ({path}): 'best' is not a policy; there are failover, round_robin, random, "
                    "fastest, least_outstanding, hash, race"
                ),
                (
                    "tcp_idle_timeout (DOTPROXY_TCP_IDLE_TIMEOUT): 'never' is not a number of seconds from 0.1 to 3600"
                    " (1h); write seconds, or 500ms, 90s, 1h30m"
                ),
                f"udp_max_size ({path}): 1 is not a whole number of octets from 512 to 65507",
                "DOTPROXY_UPSTREM (environment): no such setting, ignored; did you mean DOTPROXY_UPSTREAM?",
            ],
            problems,
        )

    def test_unknown_key_without_a_near_one_is_one_line(self) -> None:
        """
        Where nothing is close, one short line says where all of them stand.
        """
        path = self.file("zzz = 1")
        (problem,) = self.problems({}, {}, path)
        self.assertEqual(f"zzz ({path}): no such setting; `dotproxy example` lists them all", problem)

    def test_missing_or_malformed_file_is_an_error(self) -> None:
        """
        A file that is not there, or not TOML, is told of with who named it.
        """
        (problem,) = self.problems({}, {"DOTPROXY_CONFIG": "/nowhere/x.toml"})
        self.assertEqual(
            "config (DOTPROXY_CONFIG): '/nowhere/x.toml' cannot be read: no such file or directory", problem
        )
        (problem,) = self.problems({}, {}, self.file("listen ="))
        self.assertIn("is not TOML", problem)
        path = folder(self) / "binary"
        path.write_bytes(b"\xff\xfe")
        (problem,) = self.problems({}, {}, str(path))
        self.assertIn(f"config (--config): {str(path)!r} is not TOML", problem)
        (problem,) = self.problems({}, {}, str(path.parent))
        self.assertEqual(f"config (--config): {str(path.parent)!r} cannot be read: is a directory", problem)

    def test_file_in_an_unknown_home_is_an_error(self) -> None:
        """
        A file in the home of somebody unknown is one that cannot be read, and is told of like any other.
        """
        (problem,) = self.problems({}, {}, "~nobody-of-that-name/dotproxy.toml")
        self.assertIn("config (--config): '~nobody-of-that-name/dotproxy.toml' cannot be read", problem)
        (problem,) = self.problems({"ca_file": ["~nobody-of-that-name/ca.pem"]}, {})
        self.assertIn("ca_file (--ca-file): '~nobody-of-that-name/ca.pem' cannot be read", problem)

    def test_empty_file_is_refused(self) -> None:
        """
        Is refused, with how to write one and how to do without: it may be what is left of one.
        """
        for text in ("", "\n", "  \n\t\n", "# upstream = ['quad9']\n# all of it commented"):
            path = self.file(text)
            (problem,) = self.problems({"upstream": ["quad9"]}, {}, path)
            self.assertEqual(
                f'config (--config): {path!r} sets nothing; write at least upstream = ["cloudflare", "quad9"],'
                " or start without a file",
                problem,
            )

    def test_file_without_upstream_is_a_warning(self) -> None:
        """
        A line says whom the default asks; not if anything else names one, nor without a file.
        """
        path = self.file("padding = 64")
        self.assertEqual((f"no upstream in {path}: asking cloudflare and quad9, over TLS",), load({}, {}, path).notes)
        self.assertEqual((), load({}, {"DOTPROXY_UPSTREAM": "quad9"}, path).notes)
        self.assertEqual((), load({"upstream": ["quad9"]}, {}, path).notes)
        self.assertEqual((), load({}, {}, self.file('upstream = ["cloudflare", "quad9"]')).notes)
        self.assertEqual((), load({}, {}).notes)

    def test_empty_list_of_listeners_or_upstreams_is_an_error(self) -> None:
        """
        At least one listener and one upstream are needed.
        """
        path = self.file("upstream = []\nlisten = ' , '")
        self.assertEqual(
            [f"listen ({path}): needs at least one value", f"upstream ({path}): needs at least one value"],
            self.problems({}, {}, path),
        )

    def test_upstream_port_without_host_is_an_error(self) -> None:
        """
        DOTPROXY_UPSTREAM_PORT alone means nothing, and is not passed over.
        """
        (problem,) = self.problems({}, {"DOTPROXY_UPSTREAM_PORT": "853"})
        self.assertEqual("upstream (DOTPROXY_UPSTREAM_PORT): is of no use without DOTPROXY_UPSTREAM_HOST", problem)

    def test_attempt_timeout_above_the_query_timeout_is_an_error(self) -> None:
        """
        An attempt cannot take longer than the query it is for.
        """
        (problem,) = self.problems({"attempt_timeout": ["3"]}, {"DOTPROXY_QUERY_TIMEOUT": "2"})
        self.assertEqual(
            "attempt_timeout (--attempt-timeout): 3 s is longer than query_timeout, 2 s (DOTPROXY_QUERY_TIMEOUT)",
            problem,
        )


class ClientCertificateTests(SynchronousTestCase):
    """
    A certificate and its key.
    """

    def problems(self, **given: Path) -> list[str]:
        """
        What is wrong with these.
        """
        options = {key: [str(path)] for key, path in given.items()}
        try:
            load(options, {})
        except ConfigError as error:
            return error.problems
        return []

    def test_certificate_and_key_must_match(self) -> None:
        """
        They come together, and belong together.
        """
        authority = Authority()
        where = folder(self)
        certificate, key = authority.issue(["client.test"]).write(where, "one")
        _, other = authority.issue(["client.test"]).write(where, "two")
        self.assertEqual([], self.problems(client_certificate=certificate, client_key=key))
        self.assertEqual(
            ["client_certificate (--client-certificate): is of no use without client_key"],
            self.problems(client_certificate=certificate),
        )
        self.assertEqual(
            ["client_key (--client-key): is of no use without client_certificate"], self.problems(client_key=key)
        )
        self.assertEqual(
            [f"client_key (--client-key): is not the key of the first certificate in {certificate}"],
            self.problems(client_certificate=certificate, client_key=other),
        )
        (problem,) = self.problems(client_certificate=certificate, client_key=certificate)
        self.assertIn("holds no PEM key that can be read without a passphrase", problem)
        (problem,) = self.problems(client_certificate=certificate, client_key=where / "nowhere")
        self.assertIn("cannot be read: no such file or directory", problem)


class BootstrapTests(SynchronousTestCase):
    """
    Who looks up the names of upstreams.
    """

    def problems(self, upstream: list[str], *bootstrap: str) -> list[str]:
        """
        What is wrong with these.
        """
        try:
            load({"upstream": upstream, "bootstrap": list(bootstrap)} if bootstrap else {"upstream": upstream}, {})
        except ConfigError as error:
            return error.problems
        return []

    def test_upstream_by_name_needs_a_bootstrap_server(self) -> None:
        """
        A name needs an upstream by address beside it, or a bootstrap server; which is not dotproxy itself, nor a name.
        """
        self.assertEqual([], self.problems(["dns.quad9.net", "cloudflare"]))
        for server in ("udp://9.9.9.9", "udp://[2620:fe::fe]:9953", "tls://9.9.9.9#dns.quad9.net", "quad9"):
            self.assertEqual([], self.problems(["dns.quad9.net"], server))
        (problem,) = self.problems(["dns.quad9.net"])
        self.assertIn(
            "upstream (--upstream): dns.quad9.net is a name, and no server is configured to resolve it", problem
        )
        (problem,) = self.problems(["dns.quad9.net"], "udp://127.0.0.1:5300")
        self.assertEqual("bootstrap (--bootstrap): udp://127.0.0.1:5300 is dotproxy itself", problem)
        problems = self.problems(["dns.quad9.net", "quad9"], "dns.quad9.net")
        self.assertIn("would have to be looked up itself; give its address", problems[0])
