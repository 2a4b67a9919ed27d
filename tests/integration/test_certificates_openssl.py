"""
Certificates of every shape, judged by dotproxy in a handshake and by ``openssl verify``: nothing is accepted here that
is refused there, and what is refused here alone is listed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dotproxy.errors import Untrusted
from dotproxy.testing.certificates import Authority, Issued
from tests.integration.programs import run, which
from tests.upstream.names import DNS, alt_names, entries_for
from tests.upstream.scenes import ADDRESS, Scene, make_verifier

NAME = "dns.work.example"
AUTHORITY = Authority("the root")
DAY = timedelta(days=1)

#: With a right name beside it OpenSSL reads on where the extension is malformed; dotproxy does not.
UNREADABLE = {"address of three octets", "address of no octets", "not ASCII"}
#: OpenSSL takes these for the name: RFC 9525 §6.3 does not.
LAXER_NAMES = {"partial wildcard", "partial wildcard at the end"}


@dataclass
class Situation:
    """
    A server's certificate, what it sends beside, and what the client trusts.
    """

    what: str
    leaf: Issued
    anchors: bytes = AUTHORITY.pem
    sent: list[x509.Certificate] = field(default_factory=list)

    def accepted_by_dotproxy(self, name: str | None) -> bool:
        """
        Shake hands in memory.
        """
        scene = Scene(self.leaf, make_verifier(name=name, ca=self.anchors))
        options = self.leaf.server_options()
        for one in self.sent:
            options.getContext().add_extra_chain_cert(one)
        scene.server._options = (self.leaf, options)
        scene.connect("question")
        if not scene.told.answers:
            assert scene.server.queries == []
            assert isinstance(scene.told.failures[0][1], Untrusted), scene.told.failures
        return bool(scene.told.answers)

    def accepted_by_openssl(self, folder: Path, *checks: str) -> bool:
        """
        Ask the program.
        """
        (folder / "leaf.pem").write_bytes(self.leaf.certificate_pem)
        (folder / "anchors.pem").write_bytes(self.anchors)
        (folder / "sent.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in self.sent))
        options = ["-CAfile", str(folder / "anchors.pem"), "-no-CApath", "-no-CAstore", "-partial_chain"]
        options += ["-purpose", "sslserver", "-auth_level", "2", *checks]
        if self.sent:
            options += ["-untrusted", str(folder / "sent.pem")]
        said = run("openssl", "verify", *options, str(folder / "leaf.pem"))
        assert "leaf.pem: OK" in said or "verification failed" in said, said
        return "leaf.pem: OK" in said


def issue(
    signer: Issued,
    *,
    is_ca: bool = False,
    key: object = None,
    usages: list[x509.ObjectIdentifier] | None = None,
    key_usage: x509.KeyUsage | None = None,
    starts: timedelta = -DAY,
    ends: timedelta = 30 * DAY,
    path_length: int | None = None,
    extra: list[tuple[x509.ExtensionType, bool]] | None = None,
    subject: str = "the subject",
    basic: bool = True,
    self_signed: bool = False,
) -> Issued:
    """
    Make a certificate that is as it should be but for what is given.
    """
    made = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).serial_number(x509.random_serial_number())
    builder = builder.issuer_name(name if self_signed else signer.certificate.subject)
    builder = builder.public_key(made.public_key()).not_valid_before(now + starts).not_valid_after(now + ends)
    if basic:
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
    if not is_ca:
        names = [x509.DNSName(NAME), x509.IPAddress(ip_address(ADDRESS))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    for extension, is_critical in extra or []:
        builder = builder.add_extension(extension, critical=is_critical)
    return Issued(builder.sign(made if self_signed else signer.key, hashes.SHA256()), made)


def key_usage(**wanted: bool) -> x509.KeyUsage:
    """
    Return a key usage with these bits.
    """
    bits = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    bits += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{bit: wanted.get(bit, False) for bit in bits})


def ca(signer: Issued = AUTHORITY.root, **changes) -> Issued:
    """
    Return an intermediate CA.
    """
    return issue(signer, is_ca=True, subject=changes.pop("subject", "the intermediate"), **changes)


def limited_to(*permitted: str, excluded: tuple[str, ...] = ()) -> list[tuple[x509.ExtensionType, bool]]:
    """
    Return name constraints.
    """
    inside = [x509.DNSName(one) for one in permitted] or None
    outside = [x509.DNSName(one) for one in excluded] or None
    return [(x509.NameConstraints(inside, outside), True)]


def through(what: str, intermediate: Issued, *, anchors: bytes = AUTHORITY.pem, **leaf) -> Situation:
    """
    Return a situation with an intermediate CA that the server sends.
    """
    return Situation(what, issue(intermediate, **leaf), anchors, [intermediate.certificate])


def chains() -> Iterator[Situation]:
    """
    Chains, dates, usages, keys.
    """
    root, server = AUTHORITY.root, ExtendedKeyUsageOID.SERVER_AUTH
    yield Situation("as it should be", issue(root))
    yield Situation("for TLS servers", issue(root, usages=[server]))
    yield Situation("for TLS clients only", issue(root, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]))
    yield Situation("for any use", issue(root, usages=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]))
    yield Situation("for signing code", issue(root, usages=[ExtendedKeyUsageOID.CODE_SIGNING]))
    yield Situation("key for signatures", issue(root, key_usage=key_usage(digital_signature=True)))
    yield Situation("expired", issue(root, starts=-2 * DAY, ends=-DAY))
    yield Situation("not yet valid", issue(root, starts=DAY))
    yield Situation("no basic constraints", issue(root, basic=False))
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\0")
    yield Situation("unknown extension", issue(root, extra=[(unknown, False)]))
    yield Situation("unknown critical extension", issue(root, extra=[(unknown, True)]))
    yield Situation("RSA of 2048 bits", issue(root, key=rsa.generate_private_key(65537, 2048)))
    yield Situation("self-signed", issue(root, self_signed=True))
    own = issue(root, self_signed=True)
    yield Situation("self-signed and trusted", own, own.certificate_pem)
    yield Situation("another CA", issue(Authority("the root").root))
    yield Situation("root sent", issue(root), AUTHORITY.pem, [root.certificate])
    stranger = Authority("a stranger")
    yield Situation("unknown root sent", issue(stranger.root), AUTHORITY.pem, [stranger.root.certificate])
    yield through("through an intermediate", ca())
    yield Situation("intermediate not sent", issue(ca()))
    yield through("expired intermediate", ca(starts=-2 * DAY, ends=-DAY))
    yield through("intermediate not yet valid", ca(starts=DAY))
    yield through("intermediate without CA bit", issue(root, subject="no CA"))
    yield through("intermediate without basic constraints", issue(root, subject="no CA", basic=False))
    yield through("intermediate that may not sign", ca(key_usage=key_usage(digital_signature=True)))
    yield through("intermediate for clients", ca(usages=[ExtendedKeyUsageOID.CLIENT_AUTH]))
    yield through("names permitted", ca(extra=limited_to("work.example")))
    yield through("other names permitted", ca(extra=limited_to("else.example")))
    yield through("names excluded", ca(extra=limited_to(excluded=("work.example",))))
    yield through("sole intermediate as anchor", sole := ca(), anchors=sole.certificate_pem)
    yield Situation("sole intermediate, not sent", issue(sole), sole.certificate_pem)
    yield through("other intermediate as anchor", ca(), anchors=sole.certificate_pem)
    yield through("intermediate and root as anchors", ca(), anchors=sole.certificate_pem + AUTHORITY.pem)
    expired = ca(starts=-2 * DAY, ends=-DAY)
    yield through("expired intermediate as anchor", expired, anchors=expired.certificate_pem)
    leaf = issue(root)
    yield Situation("leaf as anchor", leaf, leaf.certificate_pem)
    yield Situation("leaf as anchor for another", issue(leaf), leaf.certificate_pem)
    short = ca(path_length=0)
    below = ca(short, subject="below")
    yield Situation("path too long", issue(below), AUTHORITY.pem, [below.certificate, short.certificate])
    links = [root]
    for number in range(12):
        links.append(ca(links[-1], subject=f"link {number}"))
    sent = [one.certificate for one in reversed(links[1:])]
    yield Situation("thirteen certificates", issue(links[-1]), AUTHORITY.pem, sent)
    yield Situation("six certificates", issue(links[4]), AUTHORITY.pem, sent[-4:])


#: What OpenSSL takes and dotproxy does not: a chain of more than nine intermediates.
LONGER_CHAINS = {"thirteen certificates"}


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> dict[tuple[str, str], tuple[bool, bool]]:
    """
    Of each situation, and of a name and of an address: whether dotproxy accepts it, and whether OpenSSL does.
    """
    which("openssl")
    folder = tmp_path_factory.mktemp("judged")
    found = [
        Situation(what, AUTHORITY.issue([], san=alt_names(*entries)))
        for what, entries in entries_for(NAME, ADDRESS).items()
    ]
    found += chains()
    checks: dict[str, tuple[str | None, Callable[[], tuple[str, str]]]] = {
        "name": (NAME, lambda: ("-verify_hostname", NAME)),
        "address": (None, lambda: ("-verify_ip", ADDRESS)),
    }
    return {
        (one.what, wanted): (one.accepted_by_dotproxy(name), one.accepted_by_openssl(folder, *options()))
        for one in found
        for wanted, (name, options) in checks.items()
    }


def test_accepted_certificates_are_accepted_by_openssl(judged):
    """
    Whatever is accepted, OpenSSL accepts.
    """
    accepted = sum(ours for ours, _ in judged.values())
    theirs = sum(theirs for _, theirs in judged.values())
    print(f"\n{len(judged)} situations: {accepted} accepted, {theirs} by openssl verify")
    assert len(judged) > 300
    assert [situation for situation, (ours, theirs) in judged.items() if ours and not theirs] == []
    assert accepted > 100


def test_only_listed_certificates_are_refused_beyond_openssl(judged):
    """
    What OpenSSL accepts is accepted, but for what is listed here.
    """
    refused = {situation for situation, (ours, theirs) in judged.items() if theirs and not ours}
    expected = {(what, "name") for what in LAXER_NAMES}
    expected |= {(f"the name, then: {what}", "name") for what in UNREADABLE}
    expected |= {(f"{what}, then: the address", "address") for what in UNREADABLE}
    expected |= {(f"{what}, then: the address", "name") for what in LAXER_NAMES}
    expected |= {(what, wanted) for what in LONGER_CHAINS for wanted in ("name", "address")}
    assert refused == expected


def test_wildcards_beside_invalid_labels_are_refused(tmp_path):
    """
    Wildcards beside labels that are no host name's.
    """
    for name, pattern in (
        ("_a.b.example", "*.b.example"),
        ("a._b.example", "*._b.example"),
        ("b.example", "*.example"),
    ):
        one = Situation(pattern, AUTHORITY.issue([], san=alt_names((DNS, pattern.encode()))))
        assert (one.accepted_by_dotproxy(name), one.accepted_by_openssl(tmp_path, "-verify_hostname", name)) == (
            False,
            False,
        )
