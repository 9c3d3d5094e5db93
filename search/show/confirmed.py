"""How a confirmation stands, as JSON document and as text."""

from __future__ import annotations

from typing import Any

from search.study.confirming import Confirmed


def confirmed_document(confirmed: Confirmed) -> dict[str, Any]:
    return {
        "repeats": confirmed.repeats,
        "repeats_done": confirmed.done,
        "untrained": list(confirmed.untrained),
    }


def confirmed_text(confirmed: Confirmed) -> str:
    """How many repeats are done, and which points have none."""
    done = f"{confirmed.done} of {confirmed.repeats}"
    lines = [f"{confirmed.study}: {done} trainings of the front with other seeds done"]
    if confirmed.untrained:
        lines.append(f"not trained, so the same with any seed: {', '.join(confirmed.untrained)}")
    return "\n".join(lines)
