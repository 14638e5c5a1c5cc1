"""Asynchronous drafting (SSD, PEARL, AMUSD): the draft works on hardware of its own while the verifier verifies."""

from sdbench.asynchronous.amusd import AMUSDDrafter as AMUSDDrafter
from sdbench.asynchronous.backup import Lookup as Lookup, Neural as Neural, Random as Random, Undrafted as Undrafted
from sdbench.asynchronous.drafter import OnDemandDrafter as OnDemandDrafter, SSDDrafter as SSDDrafter
from sdbench.asynchronous.fan_out import (
    Geometric as Geometric,
    Learned as Learned,
    Listed as Listed,
    Uniform as Uniform,
)
from sdbench.asynchronous.mirror import MirrorDrafter as MirrorDrafter
from sdbench.asynchronous.saguaro import Saguaro as Saguaro
from sdbench.asynchronous.specbranch import SpecBranchDrafter as SpecBranchDrafter
from sdbench.asynchronous.speculation import SpeculationServer as SpeculationServer
