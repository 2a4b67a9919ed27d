"""
One line for all that the pure code makes of so many messages: python -m fuzz.same SEED COUNT

The compiled and the interpreted must print the same; `make test-compiled` sees to it.  Messages are those of the
corpora, changed at random; what is made of one is what each function returns, or the error it raises.
"""

import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dotproxy.cache.key import key_of
from dotproxy.cache.ttl import Limits, freshness
from dotproxy.wire.conversation import Conversation
from dotproxy.wire.framing import Deframer
from dotproxy.wire.message import HEADER_SIZE, QueryInfo, parse_query, question_of
from dotproxy.wire.reply_options import keepalive_of
from dotproxy.wire.responses import refusal, restore_question, truncate
from dotproxy.wire.rewrite import EdnsRewriter
from fuzz.corpora import exchanges, singles

REWRITER = EdnsRewriter()


def outcome(function: Callable[..., Any], *given: Any) -> str:
    """
    What a function returns, or which error it raises.
    """
    try:
        return repr(function(*given))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def changed(chance: random.Random, corpus: list[bytes]) -> bytes:
    """
    A message of the corpus, with a few changes.
    """
    octets = bytearray(chance.choice(corpus))
    for _ in range(chance.randrange(5)):
        place = chance.randrange(len(octets) + 1)
        match chance.randrange(4):
            case 0:
                octets[place : place + 1] = bytes((chance.choice((0, 1, 12, 41, 63, 64, 0xC0, chance.randrange(256))),))
            case 1:
                del octets[place:]
            case 2:
                octets[place:place] = chance.randbytes(chance.randrange(1, 9))
            case _:
                del octets[place : place + chance.randrange(1, 9)]
    return bytes(octets)


def outcomes(query: bytes, tail: bytes) -> Iterator[str]:
    """
    Everything that is made of a query, and of a reply that has the rest of another message behind its question.
    """
    yield outcome(parse_query, query)
    yield outcome(question_of, query)
    yield outcome(keepalive_of, query)
    yield outcome(Deframer().feed, query)
    yield outcome(Conversation(bytes).receive, query)
    try:
        info: QueryInfo = parse_query(query)
    except Exception:
        if len(query) >= HEADER_SIZE:
            yield outcome(refusal, query, 1)
        return
    reply = query[:2] + tail[2:HEADER_SIZE] + query[HEADER_SIZE : info.question_end] + tail[HEADER_SIZE:]
    for function in (key_of, REWRITER.forwarded_options, REWRITER.rewrite_query):
        yield outcome(function, query, info)
    yield outcome(refusal, query, 2, info)
    if len(reply) < HEADER_SIZE:
        return
    yield outcome(restore_question, query, info, reply)
    yield outcome(truncate, reply, query, info, 512)
    yield outcome(REWRITER.parse_response, query, info, reply)
    try:
        answer = REWRITER.parse_response(query, info, reply)
    except Exception:
        return
    yield outcome(REWRITER.build_response, query, info, answer, 17)
    if not isinstance(answer, bytes):
        yield outcome(freshness, answer, info.qtype, Limits(), 10**9)
        yield outcome(list, answer.records())


def main(seed: int, count: int) -> None:
    """
    Print the line.
    """
    corpus = singles() + [message for exchange in exchanges() for message in exchange]
    chance = random.Random(seed)  # noqa: S311 (the same each time is what is meant)
    digest = hashlib.sha256()
    for _ in range(count):
        for line in outcomes(changed(chance, corpus), changed(chance, corpus)):
            digest.update(line.encode())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
