"""
Settings that have to agree with each other.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import load
from dotproxy.errors import ConfigError
from tests.config.test_schema import folder


class TogetherTests(SynchronousTestCase):
    """
    What cannot be used together.
    """

    def problems(self, options: dict[str, list[str]], environ: dict[str, str] | None = None) -> list[str]:
        """
        What is said of them.
        """
        try:
            load(options, environ or {})
        except ConfigError as error:
            return error.problems
        return []

    def test_minimum_ttl_above_the_maximum_is_an_error(self) -> None:
        """
        The least TTL is not above the largest.
        """
        self.assertEqual(
            ["cache_min_ttl (--cache-min-ttl): 10m is longer than cache_max_ttl, 1m (DOTPROXY_CACHE_MAX_TTL)"],
            self.problems({"cache_min_ttl": ["600"]}, {"DOTPROXY_CACHE_MAX_TTL": "60"}),
        )
        self.assertEqual([], self.problems({"cache_min_ttl": ["60"], "cache_max_ttl": ["60"]}))

    def test_admin_port_shared_with_dns_is_an_error(self) -> None:
        """
        HTTP and DNS over TCP cannot both have a port of an address; a wildcard is every address of its family.
        """
        taken = (
            ("127.0.0.1:53", "127.0.0.1:53"),
            ("[::1]:53", "[::1]:53"),
            ("0.0.0.0:53", "127.0.0.1:53"),
            ("127.0.0.1:53", "0.0.0.0:53"),
            ("[::]:53", "[::1]:53"),
            ("127.0.0.1:53", "[::]:53"),
        )
        for listen, admin in taken:
            told = f"admin_listen (--admin-listen): {admin} is taken by listen, {listen} (--listen), for DNS over TCP"
            self.assertEqual(
                [f"{told}; give another port"], self.problems({"listen": [listen], "admin_listen": [admin]})
            )
        free = (
            ("127.0.0.1:53", "127.0.0.1:8053"),
            ("127.0.0.1:53", "127.0.0.2:53"),
            ("[::]:53", "127.0.0.1:53"),
            ("0.0.0.0:53", "[::1]:53"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        )
        for listen, admin in free:
            self.assertEqual([], self.problems({"listen": [listen], "admin_listen": [admin]}), (listen, admin))

    def test_combined_problems_are_reported_with_the_others(self) -> None:
        """
        They are told together with what is wrong with single values, but for those that cannot be judged.
        """
        options = {
            "policy": ["best"],
            "cache_min_ttl": ["600"],
            "cache_max_ttl": ["60"],
            "listen": ["127.0.0.1:53"],
            "admin_listen": ["127.0.0.1:53"],
            "query_timeout": ["never"],
            "attempt_timeout": ["50"],
        }
        keys = [problem.partition(" ")[0] for problem in self.problems(options)]
        self.assertEqual(["policy", "query_timeout", "cache_min_ttl", "admin_listen"], keys)


class NeededTests(SynchronousTestCase):
    """
    Commands that need little of a configuration.
    """

    def file(self) -> str:
        """
        A configuration of which little can be used.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text(
            'admin_socket = "/run/admin"\nlisten = "127.0.0.1:53"\ncache_file = "/nowhere/x/cache"\n'
            'policy = "best"\nnonsense = 1\n',
            "utf-8",
        )
        return str(path)

    def test_only_needed_settings_are_read(self) -> None:
        """
        Nothing else is read, nor judged; it has its default.
        """
        path = self.file()
        self.assertEqual(3, len(self.assertRaises(ConfigError, load, {}, {}, path).problems))
        config = load({}, {}, path, needed=("admin_socket",)).config
        self.assertEqual(("/run/admin", None), (str(config.admin_socket), config.cache_file))
        self.assertEqual("127.0.0.1:5300", str(config.listen[0]))
        self.assertEqual("127.0.0.1:53", str(load({}, {}, path, needed=("listen",)).config.listen[0]))

    def test_error_in_a_needed_setting_is_reported(self) -> None:
        """
        A mistake in it is told, and that a file cannot be read.
        """
        (problem,) = self.assertRaises(ConfigError, load, {}, {}, self.file(), needed=("policy",)).problems
        self.assertIn("'best' is not a policy", problem)
        (problem,) = self.assertRaises(ConfigError, load, {}, {}, "/nowhere/x.toml", needed=("policy",)).problems
        self.assertIn("config (--config): '/nowhere/x.toml' cannot be read", problem)

    def test_environment_is_used(self) -> None:
        """
        As it does for the running proxy.
        """
        environ = {"DOTPROXY_ADMIN_SOCKET": "/run/other", "DOTPROXY_LISTEN_PORT": "99"}
        path = self.file()
        self.assertEqual("/run/other", str(load({}, environ, path, needed=("admin_socket",)).config.admin_socket))
        self.assertEqual("127.0.0.1:99", str(load({}, environ, path, needed=("listen",)).config.listen[0]))
