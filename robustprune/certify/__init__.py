"""Statements about how robust a network is that others can check: lower bounds on r*."""

from robustprune.certify.certificate import (
    Certificate,
    Manifest,
    read_certificates,
    total_failure,
    write_certificates,
)
from robustprune.certify.digests import file_digest, tensor_digest
from robustprune.certify.findings import Finding, report_lines
from robustprune.certify.issue import limits, proofs, smoothed_certificates, synonym_certificates
from robustprune.certify.sandwich import (
    AccuracyInterval,
    SandwichViolation,
    check_sandwich,
    robust_accuracy_interval,
)
from robustprune.certify.smoothing import ABSTAIN, SmoothingResult, certify, predict
from robustprune.certify.substitutions import substitution_margins
from robustprune.certify.synonyms import (
    Sentences,
    SynonymResult,
    certify_synonyms,
    synonym_groups,
)
from robustprune.certify.verify import verify_certificates

__all__ = [
    "ABSTAIN",
    "AccuracyInterval",
    "Certificate",
    "Finding",
    "Manifest",
    "SandwichViolation",
    "Sentences",
    "SmoothingResult",
    "SynonymResult",
    "certify",
    "certify_synonyms",
    "check_sandwich",
    "file_digest",
    "limits",
    "predict",
    "proofs",
    "read_certificates",
    "report_lines",
    "robust_accuracy_interval",
    "smoothed_certificates",
    "substitution_margins",
    "synonym_certificates",
    "synonym_groups",
    "tensor_digest",
    "total_failure",
    "verify_certificates",
    "write_certificates",
]
