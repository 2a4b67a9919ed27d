"""
Times and sizes with units.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.schema import BY_KEY
from dotproxy.config.units import octets_of, plain, seconds_of, show_octets, show_seconds


class UnitTests(SynchronousTestCase):
    """
    What each unit is worth.
    """

    def test_times_are_parsed_with_units(self) -> None:
        """
        Units from weeks to milliseconds, in any case and alone or from large to small.
        """
        expected = {
            "500ms": 0.5,
            "2s": 2,
            "90 sec": 90,
            "5m": 300,
            "5min": 300,
            "1.5h": 5400,
            "1h30m": 5400,
            "1 H 30 Min": 5400,
            "1d": 86400,
            "1w": 604800,
            "1m500ms": 60.5,
        }
        self.assertEqual(expected, {text: float(seconds_of(text)) for text in expected})

    def test_sizes_are_powers_of_1024(self) -> None:
        """
        Powers of 1024, with and without iB.
        """
        expected = {
            "64k": 65536,
            "64KiB": 65536,
            "1Ki": 1024,
            "128M": 134217728,
            "1MiB": 1048576,
            "1.5g": 1610612736,
            "1 TiB": 1 << 40,
        }
        self.assertEqual(expected, {text: int(octets_of(text)) for text in expected})

    def test_malformed_units_are_refused(self) -> None:
        """
        Numbers without a unit, unknown units, units out of order or twice, and MB, which means two things.
        """
        for text in ("", " ", "5", "m", "1x", "1m1h", "1s1s", "nan", "1e9s", "-1s", "1/3s", "１s"):
            self.assertRaises(ValueError, seconds_of, text)
        for text in ("", "5", "k", "1MB", "1kB", "1x", "-1k", "1e9k", "0x10k"):
            self.assertRaises(ValueError, octets_of, text)

    @given(st.integers(0, 10**7))
    def test_shown_value_is_parsed_as_the_same(self, number: int) -> None:
        """
        A time or a size that was written out is read back as the same.
        """
        self.assertEqual(number, seconds_of(show_seconds(number)))
        shown = show_octets(number << 10)
        self.assertEqual(number << 10, octets_of(shown) if not shown.isdigit() else int(shown))
        self.assertEqual(number / 1000, float(seconds_of(show_seconds(number / 1000))))

    def test_largest_exact_unit_is_shown(self) -> None:
        """
        The largest units that leave nothing over, and no exponents.
        """
        self.assertEqual(
            ["0s", "50ms", "2.5s", "59s", "1m30s", "1h30m", "1d", "7d"],
            [show_seconds(seconds) for seconds in (0, 0.05, 2.5, 59, 90, 5400, 86400, 604800)],
        )
        self.assertEqual(
            ["0", "1232", "64KiB", "128MiB", "16TiB"],
            [show_octets(octets) for octets in (0, 1232, 65536, 1 << 27, 1 << 44)],
        )
        self.assertEqual(["1000000", "0.05", "17592186044416"], [plain(n) for n in (1e6, 0.05, 1 << 44)])


class SettingTests(SynchronousTestCase):
    """
    Settings that are times or sizes.
    """

    def test_plain_number_is_seconds_or_octets(self) -> None:
        """
        A plain number is seconds or octets; as text it may have a unit.
        """
        cases: dict[tuple[str, object], float] = {
            ("query_timeout", "2500ms"): 2.5,
            ("query_timeout", "2.5"): 2.5,
            ("query_timeout", 2.5): 2.5,
            ("upstream_idle_timeout", "1h"): 3600.0,
            ("serve_stale", "1d"): 86400.0,
            ("serve_stale", 0): 0.0,
            ("cache_max_ttl", "1h30m"): 5400,
            ("cache_memory", "64M"): 64 << 20,
            ("cache_memory", "1GiB"): 1 << 30,
            ("cache_memory", 65536): 65536,
            ("cache_memory", "65536"): 65536,
            ("udp_max_size", "4k"): 4096,
        }
        for (key, value), meaning in cases.items():
            parsed = BY_KEY[key].parse(value)
            self.assertEqual((meaning, type(meaning)), (parsed, type(parsed)), (key, value))

    def test_error_has_limits_and_units(self) -> None:
        """
        Limits in digits, and with units where that is easier to read; how to write a unit, if that was the mistake.
        """
        cases: dict[tuple[str, object], str] = {
            ("max_outstanding", 0): "0 is not a whole number from 1 to 1000000",
            ("cache_size", "x"): "'x' is not a whole number of answers from 0 to 100000000",
            ("cache_memory", "1"): "'1' is not a whole number of octets from 65536 (64KiB) to 17592186044416 (16TiB)",
            ("cache_memory", "128MB"): (
                "'128MB' is not a whole number of octets from 65536 (64KiB) to 17592186044416 (16TiB);"
                " write octets, or 64k, 128M, 1GiB"
            ),
            ("serve_stale", "2w"): "'2w' is not a number of seconds from 0 to 604800 (7d)",
            ("query_timeout", "soon"): (
                "'soon' is not a number of seconds from 0.1 to 60; write seconds, or 500ms, 90s, 1h30m"
            ),
            ("cache_min_ttl", "1500ms"): (
                "'1500ms' is not a whole number of seconds from 0 to 3600 (1h); write seconds, or 500ms, 90s, 1h30m"
            ),
            ("hedge_percent", "3s"): "'3s' is not a number of percent from 0 to 50",
        }
        for (key, value), told in cases.items():
            self.assertEqual(told, str(self.assertRaises(ValueError, BY_KEY[key].parse, value)))

    def test_enormous_number_is_refused_at_once(self) -> None:
        """
        An enormous exponent, or number of digits, is out of range at once.
        """
        for text in ("1e999999999", "9" * 100_000, "9" * 100_000 + "d", "9" * 4000 + "d"):
            self.assertRaises(ValueError, BY_KEY["query_timeout"].parse, text)
            self.assertRaises(ValueError, BY_KEY["cache_memory"].parse, text.replace("d", "k"))
