"""Statements about how robust a network is that others can check: lower bounds on r*."""

from robustprune.certify.certificate import (
    Certificate,
    Manifest,
    read_certificates,
    total_failure,
    write_certificates,
)
from robustprune.certify.digests import file_digest, tensor_digest
from robustprune.certify.sandwich import (
    AccuracyInterval,
    SandwichViolation,
    check_sandwich,
    robust_accuracy_interval,
)
from robustprune.certify.smoothing import ABSTAIN, SmoothingResult, certify, predict

__all__ = [
    "ABSTAIN",
    "AccuracyInterval",
    "Certificate",
    "Manifest",
    "SandwichViolation",
    "SmoothingResult",
    "certify",
    "check_sandwich",
    "file_digest",
    "predict",
    "read_certificates",
    "robust_accuracy_interval",
    "tensor_digest",
    "total_failure",
    "write_certificates",
]
