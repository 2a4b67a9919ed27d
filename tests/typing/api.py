"""
How a Twisted application uses the library; never run, only type-checked.
"""

from typing import assert_type

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IResolver
from twisted.names.dns import TXT, Query

from dotproxy import DoTResolver, __version__
from dotproxy.errors import ConfigError

assert_type(__version__, str)


async def look_up() -> str:
    """
    The address of a host, over TLS.
    """
    try:
        resolver = DoTResolver(["quad9", "tls://1.1.1.1#cloudflare-dns.com"], ca_file="ca.pem")
    except ConfigError as error:
        return "\n".join(error.problems)
    used: IResolver = resolver
    assert used is resolver
    assert_type(resolver.getHostByName("example.org"), Deferred[str])
    answers, _, _ = await resolver.query(Query(b"example.org", TXT), [1.0])
    await resolver.close()
    return await resolver.getHostByName(str(answers[0].name))
