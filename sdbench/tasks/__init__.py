"""Provide prompts, score the answers, and find where an answer ends."""

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
