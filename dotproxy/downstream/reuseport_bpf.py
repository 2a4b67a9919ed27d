"""
Which of several sockets on one address is given a datagram: always the same one for questions about the same name.

Decides how a name is hashed, as a program for the kernel (classic BPF; SO_ATTACH_REUSEPORT_CBPF in socket(7)).  So each
of several processes keeps answers of its own to names of its own, and a question that two clients have is asked once.
Without it the kernel goes by the client's address and port, which is right, too, but no answer is shared then.

The hash is keyed, so that nobody can choose names that all go to one process.  It is a multilinear hash: the sum,
modulo 2^32, of each 16 bits of the name in lower case times a random number of 32 bits; its upper 16 bits count.  Over
all keys any two names are then independent of each other, whatever they are (Lemire and Kaser, "Strongly universal
string hashing is fast", 2014).  A keyed permutation of the 16 bits at the end makes it not linear.  The key is made
when the sockets are bound and stays with them: processes that are started again read the same sockets.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from hashlib import shake_256

#: In <asm/socket.h>.
_ATTACH = 51

#: struct sock_filter: what to do, how far to go if so and if not, a constant.
_INSTRUCTION = struct.Struct("=HBBI")

# <linux/bpf_common.h>: there is an accumulator A, an index X, and scratch memory M.
BPF_LD, BPF_LDX, BPF_ST, BPF_ALU, BPF_JMP, BPF_RET, BPF_MISC = 0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x07
BPF_W, BPF_B = 0x00, 0x10
BPF_IMM, BPF_ABS, BPF_IND, BPF_MEM = 0x00, 0x20, 0x40, 0x60
BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH = 0x00, 0x10, 0x20, 0x40, 0x50, 0x60, 0x70
BPF_MOD, BPF_XOR = 0x90, 0xA0
BPF_JA, BPF_JEQ, BPF_JGE = 0x00, 0x10, 0x30
BPF_K, BPF_X, BPF_A = 0x00, 0x08, 0x10
BPF_TAX = 0x00

#: Places in M: the sum so far, how long the name is, a word as it was and one that is being worked on.
_SUM, _LENGTH, _WORD, _WORK = range(4)

#: Where the name begins in a query.
_NAME = 12

#: Labels and words of 4 octets that are looked at: all that a name can have; and as many as there is room for where
#: net.core.optmem_max is 20,480, its default before Linux 6.8.
_MOST = (127, 63)
_FEWER = (64, 32)

#: Random numbers that a program takes: two for each word, and some more.
_NUMBERS = 2 * _MOST[1] + 8

Instruction = tuple[int, int, int, int]


def program(count: int, key: bytes, labels: int = _MOST[0], words: int = _MOST[1]) -> bytes:
    """
    Return the program that chooses among ``count`` sockets, as an array of ``struct sock_filter``.

    ``key`` is any octets that nobody else knows.  The program looks at so many labels of a name, at so many words of
    4 octets, and at the last word.  What is no message is the first socket's: a load from beyond the end ends the
    program, and 0 is returned.
    """
    numbers = iter(array("I", shake_256(key).digest(4 * _NUMBERS)))
    lasting = [_add_octets_in_pairs(numbers, (BPF_LD | BPF_W | BPF_ABS, 0, 0, _NAME + 4 * at)) for at in range(words)]
    begin = _find_end(labels)
    begin += [(BPF_ALU | BPF_MUL | BPF_K, 0, 0, next(numbers)), (BPF_ST, 0, 0, _SUM)]
    rest = [
        *_add_last_word(numbers),
        (BPF_ALU | BPF_RSH | BPF_K, 0, 0, 16),
        *_permuted(numbers),
        (BPF_ALU | BPF_MOD | BPF_K, 0, 0, count),
        (BPF_RET | BPF_A, 0, 0, 0),
    ]
    body: list[Instruction] = []
    for at in reversed(range(words)):
        # A word that is wholly in the name is added; else only the last one is left.
        guard = [
            (BPF_LD | BPF_MEM, 0, 0, _LENGTH),
            (BPF_JMP | BPF_JGE | BPF_K, 1, 0, 4 * at + 4),
            (BPF_JMP | BPF_JA, 0, 0, len(lasting[at]) + len(body)),
        ]
        body = [*guard, *lasting[at], *body]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in (*begin, *body, *rest))


def _find_end(labels: int) -> list[Instruction]:
    """
    Leave the length of the name, without the root, in A and in M.
    """
    step: list[Instruction] = [
        (BPF_LD | BPF_B | BPF_IND, 0, 0, 0),
        (BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
        (BPF_JMP | BPF_JA, 0, 0, 0),  # to the end
        (BPF_ALU | BPF_ADD | BPF_X, 0, 0, 0),
        (BPF_ALU | BPF_ADD | BPF_K, 0, 0, 1),
        (BPF_MISC | BPF_TAX, 0, 0, 0),
    ]
    steps: list[Instruction] = []
    for _ in range(labels):
        steps = [*step[:2], (BPF_JMP | BPF_JA, 0, 0, len(steps) + 3), *step[3:], *steps]
    return [
        (BPF_LDX | BPF_IMM, 0, 0, _NAME),
        *steps,
        (BPF_LD | BPF_IMM, 0, 0, -_NAME & 0xFFFFFFFF),
        (BPF_ALU | BPF_ADD | BPF_X, 0, 0, 0),
        (BPF_ST, 0, 0, _LENGTH),
    ]


def _add_octets_in_pairs(numbers: Iterator[int], *load: Instruction) -> list[Instruction]:
    """
    Add to the sum the two halves of the word that ``load`` leaves in A, in lower case, each times a number.
    """
    return [
        *load,
        *_lower_case(),
        (BPF_ST, 0, 0, _WORK),
        (BPF_ALU | BPF_RSH | BPF_K, 0, 0, 16),
        *_add_times(next(numbers)),
        (BPF_LD | BPF_MEM, 0, 0, _WORK),
        (BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xFFFF),
        *_add_times(next(numbers)),
    ]


def _add_times(factor: int) -> list[Instruction]:
    return [
        (BPF_ALU | BPF_MUL | BPF_K, 0, 0, factor),
        (BPF_LDX | BPF_MEM, 0, 0, _SUM),
        (BPF_ALU | BPF_ADD | BPF_X, 0, 0, 0),
        (BPF_ST, 0, 0, _SUM),
    ]


def _lower_case() -> list[Instruction]:
    """
    Put the four octets in A in lower case, and nothing but letters of ASCII (RFC 4343).

    In an octet of 7 bits, what is added sets the uppermost bit from "A" on, or after "Z".
    """
    return [
        (BPF_ST, 0, 0, _WORD),
        (BPF_ALU | BPF_AND | BPF_K, 0, 0, 0x7F7F7F7F),
        (BPF_ST, 0, 0, _WORK),
        (BPF_ALU | BPF_ADD | BPF_K, 0, 0, (0x80 - ord("A")) * 0x01010101),
        (BPF_MISC | BPF_TAX, 0, 0, 0),
        (BPF_LD | BPF_MEM, 0, 0, _WORK),
        (BPF_ALU | BPF_ADD | BPF_K, 0, 0, (0x7F - ord("Z")) * 0x01010101),
        (BPF_ALU | BPF_XOR | BPF_X, 0, 0, 0),
        (BPF_MISC | BPF_TAX, 0, 0, 0),
        (BPF_LD | BPF_MEM, 0, 0, _WORD),
        (BPF_ALU | BPF_XOR | BPF_K, 0, 0, 0x80808080),
        (BPF_ALU | BPF_AND | BPF_X, 0, 0, 0),
        (BPF_ALU | BPF_AND | BPF_K, 0, 0, 0x80808080),
        (BPF_ALU | BPF_RSH | BPF_K, 0, 0, 2),
        (BPF_LDX | BPF_MEM, 0, 0, _WORD),
        (BPF_ALU | BPF_OR | BPF_X, 0, 0, 0),
    ]


def _add_last_word(numbers: Iterator[int]) -> list[Instruction]:
    """
    Add the last four octets of the name, of which some may have been added before; if it has fewer, all of them.  Leave
    the sum in A.
    """
    shift: list[Instruction] = [
        (BPF_ALU | BPF_LSH | BPF_K, 0, 0, 3),  # octets to bits
        (BPF_ST, 0, 0, _WORK),
        (BPF_LD | BPF_IMM, 0, 0, 32),
        (BPF_LDX | BPF_MEM, 0, 0, _WORK),
        (BPF_ALU | BPF_SUB | BPF_X, 0, 0, 0),
        (BPF_MISC | BPF_TAX, 0, 0, 0),
        (BPF_LD | BPF_W | BPF_ABS, 0, 0, _NAME),
        (BPF_ALU | BPF_RSH | BPF_X, 0, 0, 0),
    ]
    last: list[Instruction] = [
        (BPF_MISC | BPF_TAX, 0, 0, 0),
        (BPF_LD | BPF_W | BPF_IND, 0, 0, _NAME - 4),
        (BPF_JMP | BPF_JA, 0, 0, len(shift)),
    ]
    add = _add_octets_in_pairs(numbers)
    return [
        (BPF_LD | BPF_MEM, 0, 0, _LENGTH),
        (BPF_JMP | BPF_JEQ | BPF_K, len(last) + len(shift) + len(add) + 1, 0, 0),  # the root: nothing to add
        (BPF_JMP | BPF_JGE | BPF_K, 0, len(last), 4),
        *last,
        *shift,
        *add,
        (BPF_LD | BPF_MEM, 0, 0, _SUM),
    ]


def _permuted(numbers: Iterator[int]) -> list[Instruction]:
    """
    Permute the 16 bits in A.
    """
    made: list[Instruction] = []
    for shift in (7, 9):
        made += [
            (BPF_ALU | BPF_MUL | BPF_K, 0, 0, next(numbers) & 0xFFFF | 1),
            (BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xFFFF),
            (BPF_MISC | BPF_TAX, 0, 0, 0),
            (BPF_ALU | BPF_RSH | BPF_K, 0, 0, shift),
            (BPF_ALU | BPF_XOR | BPF_X, 0, 0, 0),
        ]
    return made


def steer(sockets: Sequence[socket.socket]) -> bool:
    """
    Have the kernel distribute datagrams among ``sockets``, which are on one address, by name; return whether it will.
    """
    key = os.urandom(32)
    return any(_attached(sockets[0], program(len(sockets), key, *room)) for room in (_MOST, _FEWER))


def _attached(bound: socket.socket, made: bytes) -> bool:
    instructions = array("B", made)
    address, size = instructions.buffer_info()
    try:
        bound.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", size // _INSTRUCTION.size, address))
    except OSError:
        return False
    return sys.platform == "linux"
