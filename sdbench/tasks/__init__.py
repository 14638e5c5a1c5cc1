"""Prompts, how answers to them are scored, and where answers end."""

from sdbench.tasks.base import Message, Prompt, Task, prompts_sha256
from sdbench.tasks.encode import encode
from sdbench.tasks.stops import NeverStop, Stop, StopChecker, StopState

__all__ = [
    "Message",
    "NeverStop",
    "Prompt",
    "Stop",
    "StopChecker",
    "StopState",
    "Task",
    "encode",
    "prompts_sha256",
]
