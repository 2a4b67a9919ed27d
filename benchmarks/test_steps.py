"""
What each step of a query's way takes: ``make bench-steps``.

Decides how a step is timed.  Whatever its batch, the times are for one query: the clock runs slower by the size of the
batch.  What a step uses up, as questions that nobody asked before, is made between its rounds, and not timed.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from benchmarks.steps import (
    Exchange,
    Forwarding,
    Sockets,
    Tls,
    answer_to,
    from_clients,
    queries,
    seen,
)
from dotproxy.cache.s3fifo import Store
from dotproxy.downstream.udp_port import BATCH
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import parse_query
from dotproxy.wire.rewrite import EdnsRewriter

_ROUNDS = 500

#: So many messages go into one TLS record when there is something to do.
_IN_A_RECORD = 10


def per(count: int) -> pytest.MarkDecorator:
    """
    Time one of so many, for a second in all.
    """
    return pytest.mark.benchmark(timer=lambda: time.perf_counter() / count, max_time=1.0 / count, min_time=1e-4 / count)


@per(BATCH)
def test_peek(benchmark: Any) -> None:
    """
    To see what a query asks, per query.
    """
    batch = queries()
    benchmark(lambda: [parse_query(query) for query in batch])


@per(BATCH)
def test_memo_hit(benchmark: Any) -> None:
    """
    To answer what was asked, octet for octet, in the same second; from the listener's hand-over to its
    ``send_answers``, per query.
    """
    forwarding, batch = Forwarding(), from_clients(queries())
    forwarding.ask(batch)
    forwarding.answer(forwarding.answers())
    forwarding.ask(batch)
    benchmark(forwarding.ask, batch)
    assert forwarding.forwarder.counted().packet_cache_hits >= BATCH
    assert not forwarding.upstream.asked


@per(BATCH)
def test_cache_hit(benchmark: Any) -> None:
    """
    To answer from the cache what is not in the memo, per query.
    """
    forwarding, batch = Forwarding(), from_clients(queries())
    forwarding.ask(batch)
    forwarding.answer(forwarding.answers())

    def hit() -> None:
        forwarding.forwarder.cache_flushed()
        forwarding.ask(batch)

    benchmark(hit)
    assert not forwarding.forwarder.counted().packet_cache_hits
    assert not forwarding.upstream.asked


@per(BATCH)
def test_miss_in(benchmark: Any) -> None:
    """
    To have a question asked that has no answer yet, up to the upstream's ``ask``, per query.
    """
    forwarding = Forwarding()

    def setup() -> tuple[tuple[Any], dict[str, Any]]:
        forwarding.answer(forwarding.answers())
        return (from_clients(queries()),), {}

    benchmark.pedantic(forwarding.ask, setup=setup, rounds=_ROUNDS, warmup_rounds=20)
    assert len(forwarding.upstream.asked) == BATCH


@per(BATCH)
def test_miss_out(benchmark: Any) -> None:
    """
    To take an upstream's answer, keep it, and give it to who waits; per query.
    """
    forwarding = Forwarding()

    def setup() -> tuple[tuple[Any], dict[str, Any]]:
        forwarding.ask(from_clients(queries()))
        return (forwarding.answers(),), {}

    benchmark.pedantic(forwarding.answer, setup=setup, rounds=_ROUNDS, warmup_rounds=20)
    assert not forwarding.forwarder.outstanding


@per(BATCH)
def test_hop_outgoing(benchmark: Any) -> None:
    """
    To write a query as it leaves, with our OPT and padding, per query.
    """
    rewriter, batch = EdnsRewriter(), seen(queries())
    benchmark(lambda: [rewriter.rewrite_query(query, what, for_others=True) for query, what in batch])


@per(BATCH)
def test_parse_reply(benchmark: Any) -> None:
    """
    Parse an upstream's response (``wire.parsed_response.parse_reply``), per query.
    """
    rewriter = EdnsRewriter()
    batch = [(query, what, answer_to(query)) for query, what in seen(queries())]
    benchmark(lambda: [rewriter.parse_response(query, what, reply) for query, what, reply in batch])


@per(BATCH)
def test_hop_written(benchmark: Any) -> None:
    """
    To write an answer that is a second old for one client, per query.
    """
    rewriter = EdnsRewriter()
    batch = [(query, what, rewriter.parse_response(query, what, answer_to(query))) for query, what in seen(queries())]
    benchmark(lambda: [rewriter.build_response(query, what, answer, 1) for query, what, answer in batch])


@per(BATCH)
def test_store_put(benchmark: Any) -> None:
    """
    To keep something in a store that is full, so that something else has to go, per entry.
    """
    store: Store[bytes] = Store(10_000, 1 << 27, lambda key, value: len(key) + len(value))
    for key in queries(10_000):
        store.put(key, key)

    def put(keys: list[bytes]) -> None:
        for key in keys:
            store.put(key, key)

    benchmark.pedantic(put, setup=lambda: ((queries(),), {}), rounds=_ROUNDS, warmup_rounds=20)
    assert store.evicted > BATCH * _ROUNDS


@per(BATCH)
def test_framing(benchmark: Any) -> None:
    """
    To find the messages in what a stream brought, all at once, per message.
    """
    octets = b"".join(frame(answer_to(query)) for query in queries())
    messages = benchmark(lambda: Deframer().feed(octets))
    assert len(messages) == BATCH


@per(BATCH)
def test_exchange(benchmark: Any) -> None:
    """
    Send a batch on a connection (``upstream.connection``: IDs, framing, a write) and match the responses, without
    TLS, per query.
    """
    exchange = Exchange()
    benchmark(exchange.round_trip)
    assert exchange.answered
    assert not exchange.outstanding


@per(_IN_A_RECORD)
def test_tls_record(benchmark: Any) -> None:
    """
    To write ten messages as one TLS record, and to read it at the other end, in memory; per message.
    """
    tls = Tls()
    octets = b"".join(frame(EdnsRewriter().rewrite_query(query, what)) for query, what in seen(queries(_IN_A_RECORD)))
    assert benchmark(tls.carry, octets) == octets


@per(_IN_A_RECORD)
def test_tls_records(benchmark: Any) -> None:
    """
    To write ten answers as a TLS record each, and to read them at the other end, in memory; per answer.
    """
    tls = Tls()
    answers = [frame(answer_to(query)) for query in queries(_IN_A_RECORD)]
    assert benchmark(tls.carry_back, answers) == b"".join(answers)


@per(BATCH)
def test_datagrams(benchmark: Any) -> None:
    """
    To read a batch of datagrams from a socket and to send as many (``downstream.udp_port``), per datagram in and out.
    """
    sockets = Sockets()
    batch = queries()
    try:
        benchmark.pedantic(sockets.port.doRead, setup=lambda: sockets.send(batch), rounds=_ROUNDS, warmup_rounds=20)
        assert list(sockets.received()) == batch
    finally:
        sockets.close()
