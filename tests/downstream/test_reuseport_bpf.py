"""
The BPF program that chooses a socket by name: interpreted here, and run by the kernel on loopback.
"""

import operator
import socket
import struct
import sys
from array import array
from collections import Counter
from functools import cache
from hashlib import shake_256
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.downstream import reuseport_bpf
from dotproxy.downstream.reuseport_bpf import (
    BPF_A,
    BPF_ADD,
    BPF_ALU,
    BPF_AND,
    BPF_B,
    BPF_IMM,
    BPF_IND,
    BPF_JA,
    BPF_JEQ,
    BPF_JMP,
    BPF_LDX,
    BPF_LSH,
    BPF_MEM,
    BPF_MISC,
    BPF_MOD,
    BPF_MUL,
    BPF_OR,
    BPF_RET,
    BPF_RSH,
    BPF_ST,
    BPF_SUB,
    BPF_X,
    BPF_XOR,
    SHORT_PROGRAM,
    attach_name_hash,
    hash_program,
)
from dotproxy.downstream.sockets import bind_all
from dotproxy.testing.client import make_query
from dotproxy.wire.message import question_of
from dotproxy.wire.names import from_text
from tests import rounds

#: Keys of the hash.
KEYS = (b"one", b"two", b"three")

#: Names that a hash without a key, or one that skips the middle of a label, gives to one worker.
AIMED = [f"abc{number:08}wxyz.example." for number in range(20000)]


def run(instructions: bytes, message: bytes) -> int:
    """
    Return what a program returns for a message, as the kernel's interpreter would.
    """
    code = list(struct.iter_unpack("=HBBI", instructions))
    a = x = at = 0
    scratch = [0] * 16
    while True:
        what, if_so, if_not, constant = code[at]
        at += 1
        kind, operand = what & 7, x if what & BPF_X else constant
        if what == BPF_RET | BPF_A:
            return a
        if kind == BPF_ALU:
            a = ALU[what & 0xF0](a, operand) & 0xFFFFFFFF
        elif kind == BPF_JMP:
            operation = what & 0xF0
            if operation == BPF_JA:
                at += constant
            else:
                at += if_so if (a == operand if operation == BPF_JEQ else a >= operand) else if_not
        elif kind == BPF_ST:
            scratch[constant] = a
        elif kind == BPF_MISC:
            x = a
        elif kind == BPF_LDX:
            x = constant if what & 0xE0 == BPF_IMM else scratch[constant]
        elif what & 0xE0 in (BPF_IMM, BPF_MEM):
            a = constant if what & 0xE0 == BPF_IMM else scratch[constant]
        else:
            where = constant + (x if what & 0xE0 == BPF_IND else 0) & 0xFFFFFFFF
            size = 1 if what & BPF_B else 4
            if where + size > len(message):
                return 0
            a = int.from_bytes(message[where : where + size], "big")


ALU = {
    BPF_ADD: operator.add,
    BPF_SUB: operator.sub,
    BPF_MUL: operator.mul,
    BPF_OR: operator.or_,
    BPF_AND: operator.and_,
    BPF_LSH: lambda a, bits: a << bits,
    BPF_RSH: lambda a, bits: a >> bits,
    BPF_MOD: operator.mod,
    BPF_XOR: operator.xor,
}


@cache
def numbers_of(key: bytes) -> list[int]:
    """
    Return the multipliers made from a key.
    """
    return array("I", shake_256(key).digest(4 * 134)).tolist()


def expected(key: bytes, name: bytes, count: int) -> int:
    """
    Return the socket of a name, in wire form without the root, by the definition of the hash.
    """
    numbers = numbers_of(key)
    of_length, first, second, *of_mixing = numbers[126:]
    name = name.lower()  # of octets, so A to Z only
    halves = struct.unpack(f">{len(name) // 4 * 2}H", name[: len(name) // 4 * 4])
    total = len(name) * of_length + sum(map(operator.mul, halves, numbers))
    end = name[-4:].rjust(4, b"\0")
    total += int.from_bytes(end[:2], "big") * first + int.from_bytes(end[2:], "big") * second
    sixteen = total >> 16 & 0xFFFF
    for factor, shift in zip(of_mixing, (7, 9), strict=False):
        sixteen = sixteen * (factor | 1) & 0xFFFF
        sixteen ^= sixteen >> shift
    return sixteen % count


def wire(name: str) -> bytes:
    """
    Return a name in wire form without the root.
    """
    return from_text(name)[:-1]


class HashTests(SynchronousTestCase):
    """
    The program, run by an interpreter of BPF.
    """

    @settings(deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=63) | st.binary(min_size=1, max_size=2), max_size=90), st.binary())
    def test_program_computes_the_hash_as_defined(self, labels: list[bytes], key: bytes) -> None:
        """
        Compare with ``expected`` for any name there can be.
        """
        while sum(len(label) + 1 for label in labels) > 254:
            labels.pop()
        name = b"".join(bytes([len(label)]) + label for label in labels)
        message = bytes(12) + name + b"\0\0\1\0\1"
        self.assertEqual(expected(key, name, 7), run(hash_program(7, key), message))

    def test_chosen_names_are_spread_evenly(self) -> None:
        """
        No worker gets more than 1.5 times its share of names that differ in one octet, of names that all reach one
        worker with another key, or of names that differ in bit 0x20 of octets that are no letters.
        """
        binary = [
            bytes([16]) + bytes(0x30 ^ (number >> bit & 1) << 5 for bit in range(16)) + wire("example.")
            for number in range(20000)
        ]
        eighth = [bytes([15]) + bytes(0xC1 ^ (number >> bit & 1) << 5 for bit in range(15)) for number in range(20000)]
        for names, keys in ((list(map(wire, AIMED)), KEYS), (binary, KEYS[:1]), (eighth, KEYS[1:2])):
            for key in keys:
                shares = Counter(expected(key, name, 8) for name in names)
                self.assertLess(max(shares.values()), 1.5 * len(names) / 8)
                self.assertEqual(8, len(shares))
        aimed = [name for name in map(wire, AIMED) if expected(b"known", name, 8) == 3]
        self.assertGreater(len(aimed), 2000)
        for key in KEYS:
            shares = Counter(expected(key, name, 8) for name in aimed)
            self.assertLess(max(shares.values()), 1.5 * len(aimed) / 8)

    def test_short_program_spreads_long_names(self) -> None:
        """
        The first 128 octets of a name and its last four are hashed; spelling and type do not matter.
        """
        for names in (
            [f"{number:05}.{'a-long-label-' * 4}.{'b-long-label-' * 4}.{'c' * 60}.com." for number in range(400)],
            [f"{'a-long-label-' * 4}.{'b-long-label-' * 4}.{number:05}.{'c' * 60}.com." for number in range(400)],
            [f"{number:05}.example." for number in range(400)],
        ):
            made = hash_program(4, b"key", SHORT_PROGRAM)
            shares = Counter(run(made, make_query(name, 1)) for name in names)
            self.assertEqual(4, len(shares), names[0])
            self.assertLess(max(shares.values()), 150)
            self.assertEqual(
                run(made, make_query(names[7], 1)), run(made, make_query(names[7].upper(), 28, edns=False))
            )


class InstructionTests(SynchronousTestCase):
    """
    What the kernel is given.
    """

    def test_codes_are_those_of_the_kernel(self) -> None:
        """
        As in <linux/bpf_common.h> and <linux/filter.h>.
        """
        codes = {
            "LD": 0x00,
            "LDX": 0x01,
            "ST": 0x02,
            "ALU": 0x04,
            "JMP": 0x05,
            "RET": 0x06,
            "MISC": 0x07,
            "W": 0x00,
            "B": 0x10,
            "IMM": 0x00,
            "ABS": 0x20,
            "IND": 0x40,
            "MEM": 0x60,
            "ADD": 0x00,
            "SUB": 0x10,
            "MUL": 0x20,
            "OR": 0x40,
            "AND": 0x50,
            "LSH": 0x60,
            "RSH": 0x70,
            "MOD": 0x90,
            "XOR": 0xA0,
            "JA": 0x00,
            "JEQ": 0x10,
            "JGE": 0x30,
            "K": 0x00,
            "X": 0x08,
            "A": 0x10,
            "TAX": 0x00,
        }
        self.assertEqual(codes, {name: getattr(reuseport_bpf, f"BPF_{name}") for name in codes})

    def test_unused_fields_of_an_instruction_are_zero(self) -> None:
        """
        Only conditional jumps have two targets; what works on X, and what ends the program, has no constant.
        """
        for what, if_so, if_not, constant in struct.iter_unpack("=HBBI", hash_program(3, b"key")):
            kind, operation = what & 0x07, what & 0xF0
            if kind != BPF_JMP or operation == BPF_JA:
                self.assertEqual((0, 0), (if_so, if_not), hex(what))
            if kind in (BPF_MISC, BPF_RET) or (kind == BPF_ALU and what & BPF_X):
                self.assertEqual(0, constant, hex(what))

    def test_program_covers_all_words_or_half_of_them(self) -> None:
        """
        All labels and words of the longest name are looked at, or half of them where the kernel has room for less.
        """
        whole, half = hash_program(2, b"key"), hash_program(2, b"key", SHORT_PROGRAM)
        self.assertEqual(whole, hash_program(2, b"key", reuseport_bpf.WHOLE_NAME))
        self.assertLessEqual(len(whole) // 8, 4096)  # BPF_MAXINSNS
        self.assertLess(len(half), len(whole))


class AttachedTests(SynchronousTestCase):
    """
    The program in the kernel, for several sockets on one address.
    """

    def setUp(self) -> None:
        """
        Bind three sockets and attach the program.
        """
        if sys.platform != "linux":
            raise SkipTest("SO_ATTACH_REUSEPORT_CBPF is Linux only")
        listening = bind_all([("127.0.0.1", 0)], workers=3)
        self.addCleanup(listening.close)
        self.sockets = [bound for (bound,) in listening.udp]
        self.assertTrue(attach_name_hash(self.sockets))
        self.address = self.sockets[0].getsockname()

    def socket_of(self, message: bytes) -> int:
        """
        Return the number of the socket that receives a message from a new client.
        """
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(message, self.address)
        for number, bound in enumerate(self.sockets):
            try:
                self.assertEqual(message, bound.recv(65535))
            except BlockingIOError:
                continue
            return number
        raise AssertionError

    def test_same_name_reaches_same_socket(self) -> None:
        """
        Spelling, type, ID, flags and EDNS do not matter.
        """

        @settings(max_examples=rounds(300, quick=60), deadline=None)
        @given(st.lists(st.binary(min_size=1, max_size=63), max_size=3), st.integers(0, 65535), st.data())
        def check(labels: list[bytes], ident: int, data: st.DataObject) -> None:
            name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
            other = bytearray(name)
            where = 0
            for label in labels:
                where += 1
                for place in range(where, where + len(label)):
                    if chr(other[place]).isascii() and chr(other[place]).isalpha() and data.draw(st.booleans()):
                        other[place] ^= 0x20
                where += len(label)
            message = bytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1"
            with_edns = make_query("x.", 1, edns=True)
            opt = with_edns[question_of(with_edns) :]
            head = ident.to_bytes(2, "big") + b"\0\x10\0\1\0\0\0\0\0\1"
            self.assertEqual(self.socket_of(message), self.socket_of(head + bytes(other) + b"\0\x41\0\1" + opt))

        check()

    def test_similar_names_are_spread(self) -> None:
        """
        Names that differ in one octet, at either end of a label, or in a label further up reach all sockets.
        """
        for names in (
            [f"n{number:05}.example." for number in range(600)],
            [f"www.a-rather-long-name-{number}.com." for number in range(600)],
            [f"{number}-a-rather-long-name.com." for number in range(600)],
            [f"{number % 250}.{number // 250}.0.10.in-addr.arpa." for number in range(600)],
            [f"a.b.c.d.e.f.{number}.com." for number in range(600)],
            [f"{number}." for number in range(600)],
        ):
            shares = Counter(self.socket_of(make_query(name, 1)) for name in names)
            self.assertEqual(3, len(shares), names[0])
            self.assertGreater(min(shares.values()), 130, names[0])

    def test_chosen_names_are_spread_by_the_kernel(self) -> None:
        """
        No socket gets more than 1.5 times its share, whatever the random key.
        """
        shares = Counter(self.socket_of(make_query(name, 1)) for name in AIMED[::10])
        self.assertEqual(3, len(shares))
        self.assertLess(max(shares.values()), 1.5 * 2000 / 3)

    def test_each_attach_has_a_new_key(self) -> None:
        """
        Attached again, the program sends names to other sockets.
        """
        before = [self.socket_of(make_query(name, 1)) for name in AIMED[:300]]
        self.assertEqual(before, [self.socket_of(make_query(name, 1)) for name in AIMED[:300]])
        self.assertTrue(attach_name_hash(self.sockets))
        after = [self.socket_of(make_query(name, 1)) for name in AIMED[:300]]
        self.assertGreater(sum(one != other for one, other in zip(before, after, strict=True)), 100)

    def test_malformed_message_reaches_first_socket(self) -> None:
        """
        Octets that end before their name does reach the first socket.
        """
        for message in (b"", b"x", bytes(12), bytes(12) + b"\x3fabc", bytes(12) + b"\xc0\x0c", bytes(11)):
            self.assertEqual(0, self.socket_of(message), message)

    def test_program_fits_bpf_maxinsns(self) -> None:
        """
        The program has at most 4,096 instructions (BPF_MAXINSNS).
        """
        for count in (2, 256):
            self.assertEqual(0, len(hash_program(count, KEYS[0])) % 8)
            self.assertLess(len(hash_program(count, KEYS[0])) // 8, 4096)

    def test_unsupported_socket_returns_false(self) -> None:
        """
        A socket that takes no such program is reported, not raised.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            self.assertFalse(attach_name_hash([other]))
