"""Audit: does a store say what the chain's rules and signatures say it must?"""

from tepbft.audit.audit import audit_store, third_party_verifier
from tepbft.audit.report import AuditReport, Finding

__all__ = ["AuditReport", "Finding", "audit_store", "third_party_verifier"]
