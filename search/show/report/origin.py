"""Where the numbers of a study come from: settings, versions, machines, text, commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from search.describe import command_line
from search.measurement import Measurement
from search.study.begun import BEGUN
from search.study.history import History
from search.study.published import shareable

VERSIONS = ("lmpareto", "code", "torch", "python", "numpy", "optuna", "safetensors", "scipy")
MACHINE = ("machine", "processor")
SECRETS = ("storage", "cache")  # of this machine, not of the study


def origin_of(history: History, attributes: Mapping[str, Any], corpus: str) -> dict[str, Any]:
    """`StudyReport.provenance`: {"settings": YAML, "versions": name -> versions, "machine": name ->
    values, "corpus": {"kind", "hash", files and sizes}, "dense": SHA-256, "commands": [...]}.

    `attributes` are those of Optuna's study. What is not known is left out.
    """
    results = history.results
    measured = [one for _, _, _, one in results.named()] + list(results.baselines.values())
    told = {name: one for name, one in history.settings.items() if name not in SECRETS}
    settings = shareable(told)
    begun = attributes.get(BEGUN)
    text = {"kind": corpus}
    if isinstance(begun, Mapping) and isinstance(begun.get("corpus"), str):
        text["hash"] = begun["corpus"]
    if isinstance(settings.get("corpus"), Mapping):
        text |= {name: one for name, one in settings["corpus"].items() if one is not None}
    return {
        "settings": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
        if settings
        else "",
        "versions": _seen(measured, VERSIONS),
        "machine": _seen(measured, MACHINE),
        "corpus": text,
        "dense": _most(measured, "dense"),
        "commands": _commands(history),
    }


def _seen(measured: Iterable[Measurement], names: Iterable[str]) -> dict[str, str]:
    """Name -> the values that measurements were made with, the most frequent first."""
    counts = {name: Counter[str]() for name in names}
    for one in measured:
        for name, count in counts.items():
            if (value := one.provenance.get(name)) is not None:
                count[str(value)] += 1
    return {
        name: ", ".join(value for value, _ in count.most_common())
        for name, count in counts.items()
        if count
    }


def _most(measured: Iterable[Measurement], name: str) -> str | None:
    found = Counter(str(one.provenance[name]) for one in measured if name in one.provenance)
    return found.most_common(1)[0][0] if found else None


def _commands(history: History) -> list[str]:
    """What one types to make the study again, to see it and to take a model home."""
    study = history.results.study
    trials = history.trials_to_have or len(history.trials)
    commands = [command_line("sweep", study, f"trials={trials}")] if trials else []
    commands += [command_line("front", study), command_line("report", study)]
    if history.results.front.points:
        commands.append(command_line("export", study, "to=model"))
    return commands
