"""
Which of several sockets on one address is given a datagram: always the same one for questions about the same name.

Decides how a name is told, as a program for the kernel (classic BPF; SO_ATTACH_REUSEPORT_CBPF in socket(7)).  So each
of several processes keeps answers of its own to names of its own, and a question that two clients have is asked once.
Without it the kernel goes by the client's address and port, which is right, too, but no answer is shared then.
"""

from __future__ import annotations

import socket
import struct
import sys
from array import array
from collections.abc import Sequence

#: In <asm/socket.h>.
_ATTACH = 51

#: struct sock_filter: what to do, how far to go if so and if not, a constant.
_INSTRUCTION = struct.Struct("=HBBI")

# What to do (<linux/bpf_common.h>): there is an accumulator A, an index X, and memory; loads are from X in the message.
_A_IS, _A_IS_MEMORY, _X_IS_MEMORY, _X_IS_A, _MEMORY_IS_A = 0x00, 0x60, 0x61, 0x07, 0x02
_A_IS_OCTET, _A_IS_WORD = 0x50, 0x40
_ADD, _ADD_X, _SUBTRACT, _MULTIPLY, _OR, _XOR_X, _SHIFT_RIGHT, _MODULO = 0x04, 0x0C, 0x14, 0x24, 0x44, 0xAC, 0x74, 0x94
_GO_IF_EQUAL, _SKIP_UNLESS_AT_LEAST, _RETURN_A = 0x15, 0x35, 0x16

#: Places in memory: the sum so far, where the label begins, how long it is.
_SUM, _BEGIN, _LENGTH = 0, 1, 2

#: Labels that are looked at.
_LABELS = 8
#: Makes every letter small; what it does to other octets it does to all spellings alike.
_SMALL = 0x20202020
_FACTOR = 0x9E3779B1

_ADD_WORD_TO_SUM = (
    (_A_IS_WORD, 0),
    (_OR, _SMALL),
    (_MULTIPLY, _FACTOR),
    (_X_IS_MEMORY, _SUM),
    (_XOR_X, 0),
    (_MULTIPLY, _FACTOR),
    (_MEMORY_IS_A, _SUM),
)
_LABEL = (
    (_X_IS_MEMORY, _BEGIN),
    (_A_IS_OCTET, 0),
    (_GO_IF_EQUAL, 0),  # the root: to the end
    (_MEMORY_IS_A, _LENGTH),
    *_ADD_WORD_TO_SUM,
    (_A_IS_MEMORY, _LENGTH),
    (_X_IS_MEMORY, _BEGIN),
    (_ADD_X, 0),
    (_ADD, 1),
    (_MEMORY_IS_A, _BEGIN),
    (_SUBTRACT, 4),
    (_X_IS_A, 0),
    (_A_IS_MEMORY, _LENGTH),
    (_SKIP_UNLESS_AT_LEAST, 4),  # all of it is in the first word, and before it is something else
    *_ADD_WORD_TO_SUM,
)


def program(count: int) -> bytes:
    """
    Return the program that chooses among ``count`` sockets, as an array of ``struct sock_filter``.

    Of each of the first labels it takes the length, the first three octets, and the last four if it is longer.  What is
    no message is the first socket's: a load from beyond the end ends the program, and 0 is returned.
    """
    begin = ((_A_IS, 0), (_MEMORY_IS_A, _SUM), (_A_IS, 12), (_MEMORY_IS_A, _BEGIN))
    end = ((_A_IS_MEMORY, _SUM), (_SHIFT_RIGHT, 16), (_MODULO, count), (_RETURN_A, 0))
    body = (*begin, *_LABEL * _LABELS)
    instructions = b""
    for place, (what, constant) in enumerate((*body, *end)):
        to_end = len(body) - place - 1 if what == _GO_IF_EQUAL else 0
        skipped = len(_ADD_WORD_TO_SUM) if what == _SKIP_UNLESS_AT_LEAST else 0
        instructions += _INSTRUCTION.pack(what, to_end, skipped, constant)
    return instructions


def steer(sockets: Sequence[socket.socket]) -> bool:
    """
    Have the kernel distribute datagrams among ``sockets``, which are on one address, by name; return whether it will.
    """
    instructions = array("B", program(len(sockets)))
    address, size = instructions.buffer_info()
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", size // _INSTRUCTION.size, address))
    except OSError:
        return False
    return sys.platform == "linux"
