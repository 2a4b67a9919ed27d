"""
What one client may take of what all share.
"""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream.udp_port import BATCH
from dotproxy.policy.client_shares import (
    CREDIT_SIZE,
    FULL_BATCH,
    MAX_HOSTS,
    MAX_IN_FLIGHT_OCTETS,
    MAX_PREFIXES,
    ClientShare,
    ClientShares,
)
from dotproxy.policy.share_settings import ShareLimits, ShareSettings
from tests import rounds

LIMITS = ShareLimits()


class Scene:
    """
    Shares at a time that goes on by hand.
    """

    def __init__(self, *, max_in_flight: int = 1000, limits: ShareLimits = LIMITS) -> None:
        self.now = 1000.0
        self.shares = ClientShares(
            ShareSettings(lambda host: not host.startswith("203.0.113."), max_in_flight=max_in_flight, limits=limits)
        )

    def of(self, host: str) -> ClientShare:
        """
        The share of a client.
        """
        return self.shares.share_of(host, self.now)

    def ask(self, host: str, count: int = 1) -> int:
        """
        How many of so many queries of a client, sent now, are processed.
        """
        return sum(self.ask_once(host) for _ in range(count))

    def ask_once(self, host: str) -> bool:
        """
        Whether a query is processed: what ``ClientFilter`` does.
        """
        if host not in self.shares.by_host and not self.shares.may_admit_unknown(host, self.now):
            return False
        share = self.of(host)
        if share.credit > 0:
            share.credit -= 1
            return True
        return self.shares.may_send(share, self.now)

    def meet(self, *hosts: str) -> None:
        """
        These clients have been here for a while.
        """
        for host in hosts:
            self.ask(host)
        self.now += 2
        for host in hosts:
            self.ask(host)

    def overload(self) -> None:
        """
        There is more to do than can be done.
        """
        for _ in range(4):
            self.shares.note_batch("udp", FULL_BATCH, self.now)
            self.now += 0.01


class PrefixTests(SynchronousTestCase):
    """
    Which addresses are one client.
    """

    def same(self, first: str, second: str, **limits: int) -> bool:
        """
        Whether they are.
        """
        scene = Scene(limits=ShareLimits(**limits))
        return scene.of(first) is scene.of(second)

    def test_ipv4_address_is_a_client(self) -> None:
        """
        Two addresses are two clients; the mapped form of one is the same client.
        """
        self.assertFalse(self.same("192.0.2.1", "192.0.2.2"))
        self.assertTrue(self.same("192.0.2.1", "::ffff:192.0.2.1"))

    def test_ipv6_network_is_a_client(self) -> None:
        """
        All of a /56 are one client, those of the next are not.
        """
        self.assertTrue(self.same("2001:db8:0:ff::1", "2001:db8:0:01:ffff::2"))
        self.assertFalse(self.same("2001:db8:0:ff::1", "2001:db8:0:100::1"))

    def test_link_local_addresses_are_clients(self) -> None:
        """
        Each address is one client, however its link is spelled.
        """
        self.assertFalse(self.same("fe80::1%2", "fe80::2%2"))
        self.assertTrue(self.same("fe80::1%2", "fe80::1%eth0"))

    def test_prefix_lengths_are_settings(self) -> None:
        """
        Longer and shorter ones.
        """
        self.assertTrue(self.same("192.0.2.1", "192.0.2.2", prefix_v4=24))
        self.assertFalse(self.same("192.0.2.1", "192.0.3.1", prefix_v4=24))
        self.assertFalse(self.same("2001:db8::1", "2001:db8::2", prefix_v6=128))

    def test_exempt_address_is_a_client_of_its_own(self) -> None:
        """
        An exempt address does not exempt others of its prefix.
        """
        scene = Scene(limits=ShareLimits(exempt=(ip_network("2001:db8::1/128"),)))
        self.assertTrue(scene.of("2001:db8::1").is_exempt)
        self.assertFalse(scene.of("2001:db8::2").is_exempt)
        self.assertTrue(scene.of("").is_exempt)

    def test_refused_clients_share_one_account(self) -> None:
        """
        Clients outside the access list have one share together, which has no credit.
        """
        scene = Scene()
        self.assertIs(scene.of("203.0.113.1"), scene.of("203.0.113.2"))
        self.assertEqual((False, 0), (scene.of("203.0.113.1").is_served, scene.of("203.0.113.1").credit))


class InFlightTests(SynchronousTestCase):
    """
    Places for queries in flight.
    """

    def fill(self, scene: Scene, host: str, size: int = 50) -> int:
        """
        How many places a client gets that wants all of them.
        """
        account = scene.of(host).account
        taken = 0
        while scene.shares.try_charge(account, size):
            taken += 1
        return taken

    def test_one_client_gets_half(self) -> None:
        """
        One client gets half of the places, the next one half of the rest, and a third one still has room.
        """
        scene = Scene()
        scene.meet("192.0.2.1", "192.0.2.2", "192.0.2.3")
        self.assertEqual([500, 250, 125], [self.fill(scene, f"192.0.2.{n}") for n in (1, 2, 3)])

    def test_new_addresses_share_half(self) -> None:
        """
        However many addresses are used for the first time, they get half together, and a client that is known is not
        concerned.
        """
        scene = Scene()
        scene.meet("192.0.2.1")
        strangers = sum(self.fill(scene, f"198.51.100.{n}") for n in range(200))
        self.assertEqual((500, 250), (strangers, self.fill(scene, "192.0.2.1")))

    def test_client_with_a_handshake_is_known_at_once(self) -> None:
        """
        A client that completed one has an account of its own at once.
        """
        scene = Scene()
        self.fill(scene, "198.51.100.1")
        share = scene.of("198.51.100.2")
        scene.shares.verify(share)
        self.assertIs(share, share.account)
        self.assertEqual(250, self.fill(scene, "198.51.100.2"))

    def test_exempt_client_gets_all(self) -> None:
        """
        An exempt client may use the whole table.
        """
        scene = Scene(limits=ShareLimits(exempt=(ip_network("192.0.2.1/32"),)))
        self.assertEqual(1000, self.fill(scene, "192.0.2.1"))

    def test_octets_are_shared_as_well(self) -> None:
        """
        Of the octets of queries in flight a client gets half.
        """
        scene = Scene(max_in_flight=100_000)
        scene.meet("192.0.2.1", "192.0.2.2")
        taken = self.fill(scene, "192.0.2.1", 4096)
        self.assertEqual(MAX_IN_FLIGHT_OCTETS // 4096 // 2, taken)
        self.assertTrue(scene.shares.try_charge(scene.of("192.0.2.2").account, 4096))

    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(12, 4096)), max_size=200))
    def test_taken_places_are_given_back(self, steps: list[tuple[int, bool, int]]) -> None:
        """
        After any sequence no client holds a place, and never more than there are.
        """
        scene = Scene(max_in_flight=20)
        held: list[tuple[ClientShare, int]] = []
        for number, takes, size in steps:
            account = scene.of(f"192.0.2.{number}").account
            if takes and scene.shares.try_charge(account, size):
                held.append((account, size))
            elif not takes and held:
                scene.shares.release(*held.pop(number % len(held)))
            scene.now += 0.3
            scene.ask(f"192.0.2.{number}")
            self.assertLessEqual(scene.shares.in_flight, 20)
        for account, size in held:
            scene.shares.release(account, size)
        self.assertEqual((0, 0), (scene.shares.in_flight, scene.shares.octets))
        self.assertEqual(
            {(0, 0)}, {(share.in_flight, share.octets) for share in scene.shares.by_host.values()} | {(0, 0)}
        )


class RateTests(SynchronousTestCase):
    """
    Queries a second.
    """

    def test_rate_is_not_limited_without_overload(self) -> None:
        """
        Without overload, any rate is served.
        """
        scene = Scene()
        scene.meet("192.0.2.1", "192.0.2.2")
        self.assertEqual(100_000, scene.ask("192.0.2.1", 100_000))

    def flood(self, scene: Scene, others: int = 1) -> tuple[int, int]:
        """
        One client sends 20,000 queries a second for five seconds, others ten each: how many of the last four seconds
        are processed.
        """
        loud = quiet = 0
        for tick in range(500):
            scene.shares.note_batch("udp", FULL_BATCH, scene.now)
            served = scene.ask("192.0.2.1", 200)
            served_others = sum(scene.ask(f"192.0.2.{2 + n}") for n in range(others)) if tick % 10 == 0 else 0
            if tick >= 100:
                loud += served
                quiet += served_others
            scene.now += 0.01
        return loud, quiet

    def test_loud_client_is_held_to_its_rate(self) -> None:
        """
        Under overload, and beside another client, which gets everything it sends answered.
        """
        scene = Scene()
        scene.meet("192.0.2.1", "192.0.2.2")
        loud, quiet = self.flood(scene)
        self.assertEqual(40, quiet)
        self.assertTrue(3900 <= loud <= 4200, loud)

    def test_only_client_is_not_rate_limited(self) -> None:
        """
        A single client gets everything.
        """
        scene = Scene()
        scene.meet("192.0.2.1")
        self.assertEqual((80_000, 0), self.flood(scene, others=0))

    def test_only_client_that_is_new_is_not_rate_limited(self) -> None:
        """
        A single new client that starts with more than the capacity is not limited either.
        """
        scene = Scene()
        scene.overload()
        for _ in range(30):
            scene.shares.note_batch("udp", FULL_BATCH, scene.now)
            self.assertEqual(2000, scene.ask("192.0.2.1", 2000))
            scene.now += 0.05

    def test_exempt_client_is_not_rate_limited(self) -> None:
        """
        Nor is one that is exempt.
        """
        scene = Scene(limits=ShareLimits(exempt=(ip_network("192.0.2.1/32"),)))
        scene.meet("192.0.2.1", "192.0.2.2")
        self.assertEqual((80_000, 40), self.flood(scene))

    def test_rate_of_zero_limits_no_client(self) -> None:
        """
        A rate of 0 limits nobody.
        """
        scene = Scene(limits=ShareLimits(rate=0))
        scene.meet("192.0.2.1", "192.0.2.2")
        self.assertEqual((80_000, 40), self.flood(scene))

    def test_rate_limit_ends_two_seconds_after_the_flood(self) -> None:
        """
        Two seconds after the last client went below the rate, no client is limited.
        """
        scene = Scene()
        scene.meet("192.0.2.1", "192.0.2.2")
        self.flood(scene)
        self.assertLess(scene.ask("192.0.2.1", 5000), 5000)
        scene.now += 2.1
        self.assertEqual(5000, scene.ask("192.0.2.1", 5000))

    def test_burst_is_no_overload(self) -> None:
        """
        A burst that is processed at once is no overload; a full batch now and then is not, either.
        """
        scene = Scene()
        scene.meet("192.0.2.1", "192.0.2.2")
        for _ in range(100):
            scene.shares.note_batch("udp", FULL_BATCH, scene.now)
            scene.now += 0.01
            scene.shares.note_batch("udp", 3, scene.now)
            scene.ask("192.0.2.2")
            self.assertEqual(200, scene.ask("192.0.2.1", 200))

    def test_forged_addresses_share_one_rate(self) -> None:
        """
        Under pressure all that are seen for the first time get the rate of one client together; one that is known gets
        all it asks for.
        """
        scene = Scene()
        scene.meet("192.0.2.1")
        forged = known = number = 0
        for tick in range(300):
            scene.shares.note_batch("udp", FULL_BATCH, scene.now)
            for _ in range(100):
                number += 1
                served = scene.ask(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
                forged += served if tick >= 100 else 0
            known += scene.ask("192.0.2.1")
            scene.now += 0.01
        self.assertEqual(300, known)
        self.assertTrue(1900 <= forged <= 2200, forged)

    def test_full_batch_is_that_of_the_udp_port(self) -> None:
        """
        A full batch has the same size here and at the port.
        """
        self.assertEqual(BATCH, FULL_BATCH)
        self.assertEqual(BATCH, CREDIT_SIZE)

    def test_responses_to_clients_over_their_rate_are_limited(self) -> None:
        """
        Responses that say so are bounded in rate.
        """
        scene = Scene()
        self.assertEqual(2000, sum(scene.shares.may_respond_to_shed(scene.now) for _ in range(10_000)))
        scene.now += 0.5
        self.assertEqual(1000, sum(scene.shares.may_respond_to_shed(scene.now) for _ in range(10_000)))


class BoundTests(SynchronousTestCase):
    """
    What is remembered.
    """

    def test_tables_of_addresses_are_bounded(self) -> None:
        """
        Many more addresses than fit leave bounded tables, and an active client is still known.
        """
        scene = Scene()
        scene.meet("192.0.2.1")
        share = scene.of("192.0.2.1")
        for number in range(rounds(100_000, quick=30_000)):
            scene.ask(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
            if number % 500 == 0:
                scene.ask("192.0.2.1")
            scene.now += 0.001
        self.assertLessEqual(len(scene.shares), MAX_PREFIXES)
        self.assertLessEqual(len(scene.shares.by_host), MAX_HOSTS)
        self.assertIs(share, scene.of("192.0.2.1"))

    def test_addresses_of_one_ipv6_network_have_one_share(self) -> None:
        """
        Those of an IPv6 network have one share, however many they are.
        """
        scene = Scene()
        for number in range(20_000):
            scene.ask(f"2001:db8::{number:x}")
        self.assertLessEqual(len(scene.shares.by_host), MAX_HOSTS)
        self.assertEqual(1, len(scene.shares))

    def test_client_that_holds_a_place_is_kept(self) -> None:
        """
        A prefix with a connection keeps its share.
        """
        scene = Scene()
        share = scene.of("192.0.2.1")
        share.connections = 1
        for number in range(30_000):
            scene.ask(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
        self.assertIs(share, scene.of("192.0.2.1"))
        self.assertIn("connections=1", repr(share))

    def test_changed_limits_hold_at_once(self) -> None:
        """
        A client that is not served any more is not, and what it holds is given back to whom it was charged.
        """
        scene = Scene()
        scene.meet("192.0.2.1")
        account = scene.of("192.0.2.1").account
        scene.shares.try_charge(account, 40)
        scene.shares.apply_settings(ShareSettings(lambda host: False, max_in_flight=10))
        self.assertFalse(scene.of("192.0.2.1").is_served)
        scene.shares.release(account, 40)
        self.assertEqual((0, 0, 0), (scene.shares.in_flight, scene.shares.octets, account.in_flight))


class LastingTests(SynchronousTestCase):
    """
    What goes on, and what does not.
    """

    def test_short_stall_limits_clients_for_some_seconds_only(self) -> None:
        """
        A client above the rate is held to it for some seconds after a queue stood once; after that it is served,
        although another client is active all the time, since no queue stands.
        """
        scene = Scene()
        scene.meet("192.0.2.1", "192.0.2.2")
        for _ in range(40):
            scene.shares.note_batch("udp", FULL_BATCH, scene.now)
            scene.ask("192.0.2.1", 200)
            scene.ask("192.0.2.2")
            scene.now += 0.01
        scene.shares.note_batch("udp", 3, scene.now)
        served = []
        for _ in range(30):
            served.append(scene.ask("192.0.2.1", 5000))
            scene.ask("192.0.2.2")
            scene.now += 1
        self.assertLess(served[0], 2001)
        self.assertEqual([5000] * 15, served[15:])

    def test_queue_of_one_listener_is_not_ended_by_another(self) -> None:
        """
        A queue at one listener stays a queue, whatever another listener reads.
        """
        scene = Scene()
        for _ in range(5):
            scene.shares.note_batch("udp", FULL_BATCH, scene.now)
            scene.shares.note_batch("udp6", 1, scene.now)
            scene.now += 0.01
        self.assertGreater(scene.shares.overloaded_until, scene.now)

    def test_new_bound_of_queries_in_flight(self) -> None:
        """
        A reload may lower it below what is in flight: queries in flight stay, and no other has a place.
        """
        scene = Scene()
        account = scene.of("192.0.2.1").account
        self.assertTrue(scene.shares.try_charge(account, 40))
        scene.shares.apply_settings(ShareSettings(lambda host: True, max_in_flight=1))
        self.assertTrue(scene.shares.is_table_full(account, 40))
        self.assertFalse(scene.shares.try_charge(account, 40))
        self.assertEqual((1, 1), (scene.shares.in_flight, account.in_flight))

    def test_reload_keeps_clients_and_their_places(self) -> None:
        """
        Clients are known as before, and keep what they hold.
        """
        scene = Scene()
        scene.meet("192.0.2.1")
        share = scene.of("192.0.2.1")
        scene.shares.try_charge(share.account, 40)
        scene.shares.apply_settings(ShareSettings(lambda host: True, max_in_flight=1000, limits=ShareLimits(rate=5)))
        self.assertIs(share, scene.of("192.0.2.1"))
        self.assertEqual((share, 1), (share.account, share.in_flight))
        scene.shares.apply_settings(
            ShareSettings(lambda host: True, max_in_flight=1000, limits=ShareLimits(prefix_v4=24))
        )
        self.assertIsNot(share, scene.of("192.0.2.1"))

    def test_known_network_is_known_by_any_address(self) -> None:
        """
        Under overload, an IPv6 address that was evicted is known by its network.
        """
        scene = Scene()
        scene.meet("2001:db8::1", "192.0.2.2")
        for _ in range(40):
            scene.shares.note_batch("udp", FULL_BATCH, scene.now)
            scene.ask("192.0.2.2", 200)
            scene.ask("2001:db8::1")
            scene.now += 0.01
        for number in range(3000):
            scene.ask(f"10.0.{number >> 8}.{number & 255}")
        scene.shares.by_host.clear()
        self.assertTrue(scene.ask_once("2001:db8::1"))
        self.assertFalse(scene.ask_once("2001:db8:1::1"))

    def test_addresses_of_one_network_do_not_evict_another_client(self) -> None:
        """
        Of one network a few addresses are kept when many have to be forgotten, and another client's is.
        """
        scene = Scene()
        scene.meet("2001:db8::1", "2001:db8:1::1")
        for number in range(20_000):
            scene.ask(f"2001:db8::{number + 2:x}")
        self.assertIn("2001:db8:1::1", scene.shares.by_host)


class CreditTests(SynchronousTestCase):
    """
    Queries that a client may send before its bucket is looked at again.
    """

    def test_credit_is_limited_to_the_bucket(self) -> None:
        """
        The last token is one query, not a whole slice; without a whole token, and no limit in force, it is a slice.
        """
        for tokens, credit, left in ((1.0, 0, 0.0), (1.5, 0, 0.5), (2.0, 1, 0.0), (0.9, CREDIT_SIZE - 1, 0.0)):
            shares = ClientShares(ShareSettings(lambda host: True, max_in_flight=3, limits=ShareLimits(rate=10.0)))
            share = shares.share_of("192.0.2.1", 0.0)
            shares.verify(share)
            share.tokens, share.filled_at = tokens, 0.0
            self.assertTrue(shares.may_send(share, 0.0))
            self.assertEqual((credit, left), (share.credit, share.tokens), tokens)


class NumberTests(SynchronousTestCase):
    """
    Bounds that docs/security.md tells.
    """

    def test_octets_in_flight_are_limited_to_16_mib(self) -> None:
        """
        Queries in flight have 16 MiB in all.
        """
        self.assertEqual(16 * 1024 * 1024, MAX_IN_FLIGHT_OCTETS)


class FullTests(SynchronousTestCase):
    """
    Whether it is for want of room that a query has no place, or for its client's share.
    """

    def test_either_limit_makes_the_table_full(self) -> None:
        """
        Either limit is enough; the last place and the last octet can be used.
        """
        shares = ClientShares(ShareSettings(lambda host: True, max_in_flight=3))
        account = shares.share_of("192.0.2.1", 0.0)
        for in_flight, octets, is_full in (
            *((0, 0, False), (2, 0, False), (3, 0, True), (4, 0, True)),
            *(
                (0, MAX_IN_FLIGHT_OCTETS - 100, False),
                (0, MAX_IN_FLIGHT_OCTETS - 99, True),
                (3, MAX_IN_FLIGHT_OCTETS, True),
            ),
        ):
            shares.in_flight, shares.octets = in_flight, octets
            self.assertEqual(is_full, shares.is_table_full(account, 100), (in_flight, octets))

    def test_client_may_take_all_that_is_free_for_it(self) -> None:
        """
        A client may hold as much as is free; an exempt one all of it, to the last octet.
        """
        limits = ShareLimits(exempt=(ip_network("10.0.0.0/8"),))
        for host, octets, in_flight, has_place in (
            *(("10.0.0.1", MAX_IN_FLIGHT_OCTETS - 100, 0, True), ("10.0.0.1", MAX_IN_FLIGHT_OCTETS - 99, 0, False)),
            *(("10.0.0.1", 0, 2, True), ("10.0.0.1", 0, 3, False)),
            *(("192.0.2.1", 0, 1, True), ("192.0.2.1", 0, 2, False)),
            *(
                ("192.0.2.1", MAX_IN_FLIGHT_OCTETS // 2 - 50, 0, True),
                ("192.0.2.1", MAX_IN_FLIGHT_OCTETS // 2 - 49, 0, False),
            ),
        ):
            shares = ClientShares(ShareSettings(lambda host: True, max_in_flight=3, limits=limits))
            account = shares.share_of(host, 0.0)
            shares.in_flight = account.in_flight = in_flight
            shares.octets = account.octets = octets
            self.assertEqual(has_place, shares.try_charge(account, 100), (host, octets, in_flight))
            after = (in_flight + has_place, octets + 100 * has_place)
            self.assertEqual(after, (shares.in_flight, shares.octets))
            self.assertEqual(after, (account.in_flight, account.octets))

    def test_exempt_client_is_limited_by_the_table_only(self) -> None:
        """
        A client without a share is refused only if the table is full.
        """
        shares = ClientShares(
            ShareSettings(lambda host: True, max_in_flight=3, limits=ShareLimits(exempt=(ip_network("10.0.0.0/8"),)))
        )
        self.assertTrue(shares.is_table_full(shares.share_of("10.0.0.1", 0.0), 100))
        self.assertFalse(shares.is_table_full(shares.share_of("192.0.2.1", 0.0), 100))
