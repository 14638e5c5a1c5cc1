"""Map old `_target_` paths to new ones. Configs of runs from version 0.1 then still work. Version 0.3 removes this file.

A report reads the config of a kept run and builds nothing. So a class of `REPLACED` need not exist.
"""

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

# Classes that are gone, and the override that gives the same data set. Prompts and scores differ, so no class replaces them.
REPLACED = {
    "sdbench.tasks.commonsense_qa.CommonsenseQA": "tasks=commonsense_qa",
    "sdbench.tasks.gsm8k.GSM8K": "tasks=gsm8k",
    "sdbench.tasks.humaneval.HumanEval": "tasks=humaneval",
}
