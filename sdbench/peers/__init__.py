"""Peers: other libraries and servers as arms of the same comparison, each behind `Decoder`."""

from sdbench.peers.base import Peer as Peer
from sdbench.peers.flash import FlashSpec as FlashSpec
from sdbench.peers.generation import Assisted as Assisted, Generate as Generate, Lookup as Lookup
from sdbench.peers.llama_cpp import LlamaCpp as LlamaCpp
from sdbench.peers.onnx import OnnxRuntime as OnnxRuntime
from sdbench.peers.openvino import OpenVino as OpenVino
from sdbench.peers.serving import VLLM as VLLM, SGLang as SGLang
