"""torch, imported when it is first used.

Importing torch takes seconds; reading settings, a study or a database needs none of it. Files with
settings write `from lmcore.lazy import torch`: the module is imported where a tensor begins. Files
whose classes derive from torch's import torch itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch as torch
else:
    from importlib import import_module

    class _Lazy:
        """A module that is imported at the first look-up of one of its names."""

        def __init__(self, name):
            self._name = name

        def __getattr__(self, name):
            value = getattr(import_module(self._name), name)
            setattr(self, name, value)  # the next look-up is an ordinary one
            return value

    torch = _Lazy("torch")
