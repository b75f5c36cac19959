"""Make certificates of how robust a network is, which others can check: lower bounds on r*."""

from robustprune.certify.certificate import (
    Certificate,
    Manifest,
    read_certificates,
    total_failure,
    write_certificates,
)
from robustprune.certify.findings import CheckResult, report_lines, unchecked
from robustprune.certify.issue import (
    asked_for,
    limits,
    proofs,
    smoothed_certificates,
    synonym_certificates,
)
from robustprune.certify.sandwich import (
    AccuracyInterval,
    SandwichViolation,
    check_sandwich,
    robust_accuracy_interval,
)
from robustprune.certify.sentences import ClassifiedTexts, synonym_groups
from robustprune.certify.smoothing import ABSTAIN, SmoothingResult, certify, predict
from robustprune.certify.substitutions import substitution_margins
from robustprune.certify.synonyms import SynonymResult, certify_synonyms
from robustprune.certify.verify import verify_certificates
from robustprune.run.content import file_digest, tensor_digest

__all__ = [
    "ABSTAIN",
    "AccuracyInterval",
    "Certificate",
    "CheckResult",
    "ClassifiedTexts",
    "Manifest",
    "SandwichViolation",
    "SmoothingResult",
    "SynonymResult",
    "asked_for",
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
    "unchecked",
    "verify_certificates",
    "write_certificates",
]
