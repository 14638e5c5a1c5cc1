"""Add the models that an arm brings with it, such as a cast of the target, to the family of the run.

The file of an arm may have `models`, with entries as in `conf/models/`. So the arm runs on any family. If the family itself has a
role of that name, the family's model is taken, such as a stored MXFP4 checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbench.errors import InputError


def bring(models: Mapping[str, Any], arms: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the models with those that the arms bring, and the arms without their `models`.

    Raises: InputError if two arms bring different models of one name.
    """
    found, brought, kept = dict(models), {}, {}
    for name, arm in arms.items():
        own = arm.get("models") if isinstance(arm, Mapping) else None
        if own is not None and not isinstance(own, Mapping):
            raise InputError(f"arms.{name}.models must map roles to models, as the files of conf/models do.")
        for role, entry in (own or {}).items():
            if role in models:
                continue
            if role in brought and entry != found[role]:
                raise InputError(
                    f"arms.{name} and arms.{brought[role]} bring different models in the role {role}: rename one of the roles."
                )
            found[role], brought[role] = entry, name
        kept[name] = {key: value for key, value in arm.items() if key != "models"} if own is not None else arm
    return found, kept
