"""Make networks with masks really smaller, save them without their code, and export them."""

from robustprune.deploy.causal import slim_causal
from robustprune.deploy.coupled import prune_channels
from robustprune.deploy.csr import CSRLinear
from robustprune.deploy.export import export_onnx, export_program
from robustprune.deploy.int8 import Int8Files, export_int8, onnx_logits, onnx_network
from robustprune.deploy.network import Network
from robustprune.deploy.record import record
from robustprune.deploy.rounded import round_weights, straight_through
from robustprune.deploy.saving import load_slim, save_slim
from robustprune.deploy.silence import silence
from robustprune.deploy.slim import slim
from robustprune.deploy.sparse import fastest, sparsify, to_csr
from robustprune.deploy.widths import channel_seconds

__all__ = [
    "CSRLinear",
    "Int8Files",
    "Network",
    "channel_seconds",
    "export_int8",
    "export_onnx",
    "export_program",
    "fastest",
    "load_slim",
    "onnx_logits",
    "onnx_network",
    "prune_channels",
    "record",
    "round_weights",
    "save_slim",
    "silence",
    "slim",
    "slim_causal",
    "sparsify",
    "straight_through",
    "to_csr",
]
