"""Certificates that peers pin: self-signed, and accepted by TLS as leaf and trust anchor in one."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tepbft.cli.certificates import Certificate, make_certificate


def test_what_a_certificate_says() -> None:
    made = make_certificate("node3", "10.1.2.3", "abcd")
    certificate = x509.load_pem_x509_certificate(made.certificate_pem.encode())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    years = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / datetime.timedelta(
        days=365
    )
    assert 10 <= years < 10.2
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    der = ssl.PEM_cert_to_DER_cert(made.certificate_pem)
    assert made.digest == sha256(der).digest()


def test_hosts_may_be_names() -> None:
    certificate = x509.load_pem_x509_certificate(
        make_certificate("node0", "node0.example", "aa").certificate_pem.encode()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node0.example"]


def _context(
    side: ssl._SSLMethod, folder: Path, own: Certificate, anchors: str, strict: bool
) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    name = folder / own.digest.hex()[:8]
    name.with_suffix(".crt").write_text(own.certificate_pem)
    name.with_suffix(".key").write_text(own.key_pem)
    context.load_cert_chain(name.with_suffix(".crt"), name.with_suffix(".key"))
    context.load_verify_locations(cadata=anchors)
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes | None, bytes | None]:
    """What each side saw of the other (DER); SSLError if they do not accept each other."""
    a_in, a_out, b_in, b_out = (ssl.MemoryBIO() for _ in range(4))
    a = server.wrap_bio(a_in, a_out, server_side=True)
    b = client.wrap_bio(b_in, b_out)
    for _ in range(6):
        for side in (b, a):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            a_in.write(b_out.read())
            b_in.write(a_out.read())
    return a.getpeercert(binary_form=True), b.getpeercert(binary_form=True)


@pytest.mark.parametrize("strict", [False, True])
def test_two_nodes_of_a_cluster_accept_each_other(tmp_path: Path, strict: bool) -> None:
    """Mutual TLS 1.3 with all members' certificates as trust anchors, as peer links use it."""
    made = [make_certificate(f"node{node}", "127.0.0.1", "aa") for node in range(3)]
    anchors = "".join(certificate.certificate_pem for certificate in made)
    server = _context(ssl.PROTOCOL_TLS_SERVER, tmp_path, made[0], anchors, strict)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, made[1], anchors, strict)
    seen_by_server, seen_by_client = _handshake(server, client)
    assert seen_by_server is not None and sha256(seen_by_server).digest() == made[1].digest
    assert seen_by_client is not None and sha256(seen_by_client).digest() == made[0].digest


def test_a_stranger_is_not_accepted(tmp_path: Path) -> None:
    members = [make_certificate(f"node{node}", "127.0.0.1", "aa") for node in range(2)]
    stranger = make_certificate("node1", "127.0.0.1", "aa")
    anchors = "".join(certificate.certificate_pem for certificate in members)
    server = _context(ssl.PROTOCOL_TLS_SERVER, tmp_path, members[0], anchors, False)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, stranger, anchors, False)
    with pytest.raises(ssl.SSLError):
        _handshake(server, client)
