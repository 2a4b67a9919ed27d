"""
Which worker reads which socket.
"""

import socket

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import load
from dotproxy.service.listening import ListeningSockets
from dotproxy.service.workers.socket_assignment import ALL_WORKERS, Handover, SocketAssignment


class SocketAssignmentTests(SynchronousTestCase):
    """
    Four workers, each with a UDP socket of its own.
    """

    def setUp(self) -> None:
        """
        Bind their sockets.
        """
        self.assignment = SocketAssignment(["1", "2", "3", "4"], ListeningSockets())
        self.assignment.bind_missing(load({"listen": ["127.0.0.1:0"]}, {}).config)
        self.addCleanup(self.assignment.close)

    def test_no_socket_moves_while_every_worker_serves(self) -> None:
        """
        No worker is told anything.
        """
        self.assertEqual([], self.assignment.reassign({"1", "2", "3", "4"}))

    def test_the_worker_with_the_fewest_takes_over(self) -> None:
        """
        Two sockets go to two workers, or to one if no other serves; once only.
        """
        expected = [Handover("1", "take_over", "3"), Handover("2", "take_over", "4")]
        self.assertEqual(expected, self.assignment.reassign({"1", "2"}))
        self.assertEqual([], self.assignment.reassign({"1", "2"}))
        self.assertEqual([Handover("1", "take_over", "2")], self.assignment.reassign({"1"}))

    def test_a_socket_is_released_to_its_worker(self) -> None:
        """
        As soon as that serves again.
        """
        self.assignment.reassign({"1", "2", "4"})
        self.assertEqual([Handover("1", "release", "3")], self.assignment.reassign({"1", "2", "3", "4"}))
        self.assertEqual([], self.assignment.reassign({"1", "2", "3", "4"}))

    def test_sockets_taken_over_by_an_ended_worker_go_to_another(self) -> None:
        """
        Together with its own socket.
        """
        self.assignment.reassign({"1", "2", "4"})
        self.assignment.forget("1")
        expected = [Handover("2", "take_over", "1"), Handover("4", "take_over", "3")]
        self.assertEqual(expected, self.assignment.reassign({"2", "4"}))

    def test_passed_sockets_belong_to_all_workers(self) -> None:
        """
        They are never taken over, and nothing is bound beside them.
        """
        bound = socket.socket(type=socket.SOCK_DGRAM)
        self.addCleanup(bound.close)
        assignment = SocketAssignment(["1", "2"], ListeningSockets([bound]))
        assignment.bind_missing(load({"listen": ["127.0.0.1:0"]}, {}).config)
        self.assertEqual([ALL_WORKERS], [owned.owner for owned in assignment.owned()])
        self.assertEqual([], assignment.reassign({"1"}))
