"""Speculative speculative decoding: the draft speculates, on hardware of its own, for what the verifier may decide."""

from sdbench.remote.backup import Lookup as Lookup, Neural as Neural, Random as Random, Undrafted as Undrafted
from sdbench.remote.fanout import Geometric as Geometric, Learned as Learned, Listed as Listed, Uniform as Uniform
from sdbench.remote.proposer import Remote as Remote, RemoteDrafter as RemoteDrafter
from sdbench.remote.running import FreeRunning as FreeRunning
from sdbench.remote.saguaro import Saguaro as Saguaro
from sdbench.remote.server import SpeculationServer as SpeculationServer
