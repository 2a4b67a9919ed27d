"""
What a TCP client may have others wait for, or keep in memory.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.stream_limits import INITIAL_BATCH, MAX_BATCH, connections_to_end, initial_window, next_batch


class BatchTests(SynchronousTestCase):
    """
    Queries handed on at once.
    """

    def test_small_responses_double_the_batch_up_to_a_limit(self) -> None:
        """
        After small responses twice as many queries are handed on at once, up to a limit.
        """
        sizes = [INITIAL_BATCH]
        while sizes[-1] < MAX_BATCH:
            sizes.append(next_batch(sizes[-1], 500))
        self.assertEqual([4, 8, 16, 32], sizes)
        self.assertEqual(MAX_BATCH, next_batch(MAX_BATCH, 0))

    def test_large_responses_reduce_the_batch_to_one(self) -> None:
        """
        After large ones queries are handed on one by one, until responses are small again.
        """
        self.assertEqual(1, next_batch(MAX_BATCH, 60_000))
        self.assertEqual(1, next_batch(1, 60_000))
        self.assertEqual(2, next_batch(1, 100))

    def test_responses_over_32_kib_are_large(self) -> None:
        """
        Of all responses received at once.
        """
        self.assertEqual((8, 1), (next_batch(4, 32768), next_batch(4, 32769)))

    def test_client_with_unread_connections_starts_with_fewer_queries(self) -> None:
        """
        A client with connections that it does not read may have less in flight over others.
        """
        self.assertEqual((4, 1), (initial_window(has_unread_peers=False), initial_window(has_unread_peers=True)))


class UnreadTests(SynchronousTestCase):
    """
    Connections that are ended when too much is unread.
    """

    def test_no_connection_is_chosen_up_to_the_limit(self) -> None:
        """
        Up to the limit all stay.
        """
        self.assertEqual([], connections_to_end([("a", "1", 50), ("b", "2", 50)], 100))

    def test_connections_of_the_prefix_with_most_unread_are_chosen_first(self) -> None:
        """
        One connection with much of a client with little stays; of the client with most, those with most go first.
        """
        unread = [("alone", "1", 60), ("x", "2", 30), ("y", "2", 50), ("z", "2", 40)]
        self.assertEqual(["y"], connections_to_end(unread, 140))
        self.assertEqual(["y", "z"], connections_to_end(unread, 120)[:2])

    def test_prefixes_with_equal_amounts_alternate(self) -> None:
        """
        Each time the prefix with most at that moment.
        """
        unread = [(f"{prefix}{number}", prefix, 10) for prefix in "ab" for number in range(3)]
        ended = connections_to_end(unread, 20)
        self.assertEqual(2, sum(connection.startswith("a") for connection in ended))
        self.assertEqual(4, len(ended))

    def test_all_are_chosen_with_a_limit_of_zero(self) -> None:
        """
        All of them, if nothing may be unread.
        """
        self.assertEqual({"a", "b"}, set(connections_to_end([("a", "1", 5), ("b", "2", 6)], 0)))
