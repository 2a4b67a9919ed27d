"""
A BPF program that chooses the socket of a SO_REUSEPORT group: queries for the same name always reach the same socket.

Decides how the QNAME is hashed, as classic BPF for the kernel (SO_ATTACH_REUSEPORT_CBPF, socket(7)).  With it each of
several workers caches the responses to its own share of the names, and a query that two clients send at once is
forwarded once.  Without it the kernel hashes the client's address and port: every query is answered, but workers cache
the same responses several times.

The hash is keyed, so that nobody can choose names that all reach one worker.  It is a multilinear hash: the sum, modulo
2^32, of each 16 bits of the name in lower case times a random number of 32 bits; the upper 16 bits of the sum are the
result.  Over all keys the results of any two names are independent (Lemire and Kaser, "Strongly universal string
hashing is fast", 2014).  A keyed permutation of the 16 bits at the end makes it not linear.  The key is made when the
sockets are bound and stays with them: a restarted worker reads the same sockets.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from hashlib import shake_256
from typing import NamedTuple

#: In <asm/socket.h>; the socket module does not have it.
_SO_ATTACH_REUSEPORT_CBPF = 51

#: struct sock_filter.
_SOCK_FILTER = struct.Struct("=HBBI")

# <linux/bpf_common.h>: a program has an accumulator A, an index register X, and scratch memory M of 16 words.
BPF_LD, BPF_LDX, BPF_ST, BPF_ALU, BPF_JMP, BPF_RET, BPF_MISC = 0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x07
BPF_W, BPF_B = 0x00, 0x10
BPF_IMM, BPF_ABS, BPF_IND, BPF_MEM = 0x00, 0x20, 0x40, 0x60
BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH = 0x00, 0x10, 0x20, 0x40, 0x50, 0x60, 0x70
BPF_MOD, BPF_XOR = 0x90, 0xA0
BPF_JA, BPF_JEQ, BPF_JGE = 0x00, 0x10, 0x30
BPF_K, BPF_X, BPF_A = 0x00, 0x08, 0x10
BPF_TAX = 0x00

#: Words of M: the sum so far, the length of the name, a word of the name as received, and one to compute with.
_M_SUM, _M_LENGTH, _M_WORD, _M_TEMPORARY = range(4)

#: Where the QNAME begins in a query, in octets.
_QNAME_AT = 12


class HashLimits(NamedTuple):
    """
    How much of a name a program reads: labels, and words of 4 octets.
    """

    labels: int
    words: int


#: The longest name there is.
WHOLE_NAME = HashLimits(labels=127, words=63)

#: What fits where net.core.optmem_max is 20,480 octets, its default before Linux 6.8.
SHORT_PROGRAM = HashLimits(labels=64, words=32)


#: Multipliers of a program: two for each word of the name, one for its length, two for its last word, two to permute.
_MULTIPLIERS = 2 * WHOLE_NAME.words + 5


class SockFilter(NamedTuple):
    """
    One instruction (struct sock_filter): a jump skips ``jt`` instructions if its condition holds, ``jf`` if not.
    """

    code: int
    jt: int
    jf: int
    k: int


def bpf_stmt(code: int, k: int = 0) -> SockFilter:
    """
    Return an instruction that does not jump, as BPF_STMT in <linux/filter.h>.
    """
    return SockFilter(code, 0, 0, k)


def bpf_jump(code: int, k: int, jt: int, jf: int) -> SockFilter:
    """
    Return a conditional jump, as BPF_JUMP in <linux/filter.h>.
    """
    return SockFilter(code, jt, jf, k)


def hash_program(count: int, key: bytes, limits: HashLimits = WHOLE_NAME) -> bytes:
    """
    Return the program that chooses among ``count`` sockets, as an array of ``struct sock_filter``.

    ``key`` is secret.  The program reads as much of a name as ``limits`` allows, and its last 4 octets.  A message that
    is too short for its name goes to the first socket: a load from beyond the end ends the program with 0.
    """
    multipliers = iter(array("I", shake_256(key).digest(4 * _MULTIPLIERS)))
    word_sums = [
        _add_word_in_a(multipliers, bpf_stmt(BPF_LD | BPF_W | BPF_ABS, _QNAME_AT + 4 * word))
        for word in range(limits.words)
    ]
    start = [
        *_find_name_length(limits.labels),
        bpf_stmt(BPF_ALU | BPF_MUL | BPF_K, next(multipliers)),
        bpf_stmt(BPF_ST, _M_SUM),
    ]
    end = [
        *_add_last_word(multipliers),
        bpf_stmt(BPF_ALU | BPF_RSH | BPF_K, 16),
        *_permute(multipliers),
        bpf_stmt(BPF_ALU | BPF_MOD | BPF_K, count),
        bpf_stmt(BPF_RET | BPF_A),
    ]
    words: list[SockFilter] = []
    for word in reversed(range(limits.words)):
        # A word that ends before the name does is added; at the first other one the program jumps to its end.
        guard = [
            bpf_stmt(BPF_LD | BPF_MEM, _M_LENGTH),
            bpf_jump(BPF_JMP | BPF_JGE | BPF_K, 4 * word + 4, jt=1, jf=0),
            bpf_stmt(BPF_JMP | BPF_JA, len(word_sums[word]) + len(words)),
        ]
        words = [*guard, *word_sums[word], *words]
    return b"".join(_SOCK_FILTER.pack(*instruction) for instruction in (*start, *words, *end))


def _find_name_length(labels: int) -> list[SockFilter]:
    """
    Store the length of the name, without the root label, in M and leave it in A.
    """
    steps: list[SockFilter] = []
    for _ in range(labels):
        steps = [
            bpf_stmt(BPF_LD | BPF_B | BPF_IND, 0),
            bpf_jump(BPF_JMP | BPF_JEQ | BPF_K, 0, jt=0, jf=1),
            bpf_stmt(BPF_JMP | BPF_JA, len(steps) + 3),  # the root label: past all further steps
            bpf_stmt(BPF_ALU | BPF_ADD | BPF_X),
            bpf_stmt(BPF_ALU | BPF_ADD | BPF_K, 1),
            bpf_stmt(BPF_MISC | BPF_TAX),
            *steps,
        ]
    return [
        bpf_stmt(BPF_LDX | BPF_IMM, _QNAME_AT),
        *steps,
        bpf_stmt(BPF_LD | BPF_IMM, -_QNAME_AT & 0xFFFFFFFF),
        bpf_stmt(BPF_ALU | BPF_ADD | BPF_X),
        bpf_stmt(BPF_ST, _M_LENGTH),
    ]


def _add_word_in_a(multipliers: Iterator[int], *load: SockFilter) -> list[SockFilter]:
    """
    Add the word that ``load`` leaves in A to the sum: in lower case, each half times a multiplier.
    """
    return [
        *load,
        *_to_lower_case(),
        bpf_stmt(BPF_ST, _M_TEMPORARY),
        bpf_stmt(BPF_ALU | BPF_RSH | BPF_K, 16),
        *_add_product(next(multipliers)),
        bpf_stmt(BPF_LD | BPF_MEM, _M_TEMPORARY),
        bpf_stmt(BPF_ALU | BPF_AND | BPF_K, 0xFFFF),
        *_add_product(next(multipliers)),
    ]


def _add_product(multiplier: int) -> list[SockFilter]:
    """
    Add A times ``multiplier`` to the sum.
    """
    return [
        bpf_stmt(BPF_ALU | BPF_MUL | BPF_K, multiplier),
        bpf_stmt(BPF_LDX | BPF_MEM, _M_SUM),
        bpf_stmt(BPF_ALU | BPF_ADD | BPF_X),
        bpf_stmt(BPF_ST, _M_SUM),
    ]


def _to_lower_case() -> list[SockFilter]:
    """
    Put the ASCII letters among the four octets in A in lower case, and change no other octet (RFC 4343).

    Each octet, cut to 7 bits, gets two numbers added: the first sets its upper bit from "A" on, the second after "Z".
    """
    return [
        bpf_stmt(BPF_ST, _M_WORD),
        bpf_stmt(BPF_ALU | BPF_AND | BPF_K, 0x7F7F7F7F),
        bpf_stmt(BPF_ST, _M_TEMPORARY),
        bpf_stmt(BPF_ALU | BPF_ADD | BPF_K, (0x80 - ord("A")) * 0x01010101),
        bpf_stmt(BPF_MISC | BPF_TAX),
        bpf_stmt(BPF_LD | BPF_MEM, _M_TEMPORARY),
        bpf_stmt(BPF_ALU | BPF_ADD | BPF_K, (0x7F - ord("Z")) * 0x01010101),
        bpf_stmt(BPF_ALU | BPF_XOR | BPF_X),
        bpf_stmt(BPF_MISC | BPF_TAX),
        bpf_stmt(BPF_LD | BPF_MEM, _M_WORD),
        bpf_stmt(BPF_ALU | BPF_XOR | BPF_K, 0x80808080),
        bpf_stmt(BPF_ALU | BPF_AND | BPF_X),
        bpf_stmt(BPF_ALU | BPF_AND | BPF_K, 0x80808080),
        bpf_stmt(BPF_ALU | BPF_RSH | BPF_K, 2),
        bpf_stmt(BPF_LDX | BPF_MEM, _M_WORD),
        bpf_stmt(BPF_ALU | BPF_OR | BPF_X),
    ]


def _add_last_word(multipliers: Iterator[int]) -> list[SockFilter]:
    """
    Add the last four octets of the name to the sum, or the whole name if it is shorter; leave the sum in A.

    Some of the four may have been added before.
    """
    shorter_than_a_word = [
        bpf_stmt(BPF_ALU | BPF_LSH | BPF_K, 3),  # octets to bits
        bpf_stmt(BPF_ST, _M_TEMPORARY),
        bpf_stmt(BPF_LD | BPF_IMM, 32),
        bpf_stmt(BPF_LDX | BPF_MEM, _M_TEMPORARY),
        bpf_stmt(BPF_ALU | BPF_SUB | BPF_X),
        bpf_stmt(BPF_MISC | BPF_TAX),
        bpf_stmt(BPF_LD | BPF_W | BPF_ABS, _QNAME_AT),
        bpf_stmt(BPF_ALU | BPF_RSH | BPF_X),
    ]
    last_four = [
        bpf_stmt(BPF_MISC | BPF_TAX),
        bpf_stmt(BPF_LD | BPF_W | BPF_IND, _QNAME_AT - 4),
        bpf_stmt(BPF_JMP | BPF_JA, len(shorter_than_a_word)),
    ]
    add = _add_word_in_a(multipliers)
    skipped_for_root = 1 + len(last_four) + len(shorter_than_a_word) + len(add)
    return [
        bpf_stmt(BPF_LD | BPF_MEM, _M_LENGTH),
        bpf_jump(BPF_JMP | BPF_JEQ | BPF_K, 0, jt=skipped_for_root, jf=0),
        bpf_jump(BPF_JMP | BPF_JGE | BPF_K, 4, jt=0, jf=len(last_four)),
        *last_four,
        *shorter_than_a_word,
        *add,
        bpf_stmt(BPF_LD | BPF_MEM, _M_SUM),
    ]


def _permute(multipliers: Iterator[int]) -> list[SockFilter]:
    """
    Permute the 16 bits in A.
    """
    steps: list[SockFilter] = []
    for shift in (7, 9):
        steps += [
            bpf_stmt(BPF_ALU | BPF_MUL | BPF_K, next(multipliers) & 0xFFFF | 1),
            bpf_stmt(BPF_ALU | BPF_AND | BPF_K, 0xFFFF),
            bpf_stmt(BPF_MISC | BPF_TAX),
            bpf_stmt(BPF_ALU | BPF_RSH | BPF_K, shift),
            bpf_stmt(BPF_ALU | BPF_XOR | BPF_X),
        ]
    return steps


def attach_name_hash(sockets: Sequence[socket.socket]) -> bool:
    """
    Make the kernel distribute datagrams among ``sockets``, which share one address, by QNAME.

    Return whether it will: not on other systems than Linux, and not where no program fits into net.core.optmem_max.
    """
    key = os.urandom(32)
    first = sockets[0]  # the program belongs to the group; any socket of it will do
    return any(_attach(first, hash_program(len(sockets), key, limits)) for limits in (WHOLE_NAME, SHORT_PROGRAM))


def _attach(bound: socket.socket, program: bytes) -> bool:
    instructions = array("B", program)
    address, size = instructions.buffer_info()
    sock_fprog = struct.pack("@HP", size // _SOCK_FILTER.size, address)
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, sock_fprog)
    except OSError:
        return False
    return sys.platform == "linux"
