"""TLS 1.3 with pinned certificates: who is at the other end follows from a digest, not from a name.

Peers authenticate each other: both present a certificate, and the SHA-256 of its DER
form is looked up in the member table. Clients check the server's digest in the same
way, and prove who they are by signing requests.
"""

from __future__ import annotations

import hashlib
import ssl
from asyncio import BaseTransport
from dataclasses import dataclass
from pathlib import Path

from tepbft.errors import TepbftError


@dataclass(frozen=True)
class TlsContexts:
    """The three roles in which a node speaks TLS."""

    peer_server: ssl.SSLContext
    peer_client: ssl.SSLContext
    client_server: ssl.SSLContext


def _base(purpose: int, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the digest decides
    # Members' certificates are their own roots; they are pinned, so the rules for authorities do not apply.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_cert_chain(certificate, key)
    return context


def make_contexts(certificate: Path, key: Path, anchors: Path) -> TlsContexts:
    """Contexts from PEM files; TepbftError if one of them does not fit."""
    try:
        peer_server = _base(ssl.PROTOCOL_TLS_SERVER, certificate, key)
        peer_server.verify_mode = ssl.CERT_REQUIRED
        peer_server.load_verify_locations(anchors)
        peer_client = _base(ssl.PROTOCOL_TLS_CLIENT, certificate, key)
        peer_client.verify_mode = ssl.CERT_REQUIRED
        peer_client.load_verify_locations(anchors)
        client_server = _base(ssl.PROTOCOL_TLS_SERVER, certificate, key)
        client_server.verify_mode = ssl.CERT_NONE
    except (OSError, ssl.SSLError) as error:
        raise TepbftError(
            f"{certificate}, {key} or {anchors.name}",
            f"they do not make a TLS identity ({error})",
            "Restore the node's folder from a copy.",
        ) from None
    for context in (peer_server, client_server):
        context.num_tickets = 0  # sessions are never resumed: a link is made once and lasts
    return TlsContexts(peer_server, peer_client, client_server)


def certificate_digest(pem: str) -> bytes:
    """SHA-256 over the DER form of the first certificate in `pem`; ValueError if there is none."""
    end = "-----END CERTIFICATE-----"
    first = pem[: pem.index(end) + len(end)]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :])).digest()


def peer_digest(transport: BaseTransport) -> bytes | None:
    """SHA-256 of the certificate that the other end of a TLS transport presented; None without one."""
    session = transport.get_extra_info("ssl_object")
    der = session.getpeercert(binary_form=True) if session is not None else None
    return hashlib.sha256(der).digest() if der else None
