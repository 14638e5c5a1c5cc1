"""Prompts, how answers to them are scored, and where answers end."""

from sdbench.tasks.base import Message, Prompt, Task, prompts_sha256
from sdbench.tasks.encode import encode
from sdbench.tasks.stops import StopChecker

__all__ = [
    "Message",
    "Prompt",
    "StopChecker",
    "Task",
    "encode",
    "prompts_sha256",
]
