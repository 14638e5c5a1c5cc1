"""Map old `_target_` paths to new ones. Configs of runs from version 0.1 then still work. Version 0.3 removes this file."""

from __future__ import annotations

ALIASES = {
    "sdbench.drafting.Nothing": "sdbench.drafting.NoDraft",
    "sdbench.drafting.Verified": "sdbench.drafting.StagedDrafter",
    "sdbench.remote.FreeRunning": "sdbench.asynchronous.AMUSDDrafter",
    "sdbench.remote.Geometric": "sdbench.asynchronous.Geometric",
    "sdbench.remote.Learned": "sdbench.asynchronous.Learned",
    "sdbench.remote.Listed": "sdbench.asynchronous.Listed",
    "sdbench.remote.Lookup": "sdbench.asynchronous.Lookup",
    "sdbench.remote.Neural": "sdbench.asynchronous.Neural",
    "sdbench.remote.Random": "sdbench.asynchronous.Random",
    "sdbench.remote.Remote": "sdbench.asynchronous.SSDDrafter",
    "sdbench.remote.RemoteDrafter": "sdbench.asynchronous.OnDemandDrafter",
    "sdbench.remote.Saguaro": "sdbench.asynchronous.Saguaro",
    "sdbench.remote.Undrafted": "sdbench.asynchronous.Undrafted",
    "sdbench.remote.Uniform": "sdbench.asynchronous.Uniform",
}
