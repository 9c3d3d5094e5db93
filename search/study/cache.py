"""What the cache folder holds, for which study, and what of it no study needs.

A bundle is needed where it lies on the front of all that a study measured, or is one of its
baselines. Of repeats, only the measurements are needed. The weights of a fine-tuning are needed
while the study that measured it has trials to go. All that is deleted can be made again with the
same result: `export`, `publish` and a sweep do so by themselves. What the database does not know
stays: another database may know it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmcore.errors import UserError
from search.bench.stages import SUFFIXES, WRITE_SECONDS
from search.config import SPEED, StudyConfig
from search.front import Point, front_of
from search.study.begun import objectives_in
from search.study.context import StudyContext
from search.study.study import complete_keys, limits_of

RECENT_SECONDS = 60  # a file that was written since then may be in use
KINDS = {  # folder -> what is in it
    "dense": "dense models",
    "bundles": "bundles",
    "stages": "weights to go on from",
    "data": "downloads",
    "plots": "pages",
    "jobs": "files of launchers",
    "workers": "locks of workers",
}


@dataclass
class Share:
    """Files of the cache that are for one thing: how many, their bytes, and those not needed."""

    what: str
    study: str = ""  # "" where it belongs to none that the database knows, or to several
    files: int = 0
    size_bytes: int = 0
    unneeded: list[Path] = field(default_factory=list)
    unneeded_bytes: int = 0

    def add(self, path: Path, size_bytes: int, needed: bool) -> None:
        self.files += 1
        self.size_bytes += size_bytes
        if not needed:
            self.unneeded.append(path)
            self.unneeded_bytes += size_bytes


@dataclass(frozen=True)
class _Needs:
    """The keys of what a study has measured, and of what it still needs."""

    study: str
    measured: set[str]
    bundles: set[str]
    stages: set[str]


def survey(context: StudyContext[StudyConfig]) -> list[Share]:
    """What the cache folder holds. The database is read after the folder, so a file that a sweep
    writes meanwhile is not taken for one that nobody needs."""
    folder = context.config.folder
    found = [(kind, path) for kind in KINDS for path in _files(folder / kind)]
    known = context.store.measured_keys()
    needs = [_needs(context.but(name=name)) for name in context.store.studies()]
    needed = {
        "bundles": {key for one in needs for key in one.bundles},
        "stages": {key for one in needs for key in one.stages},
    }
    shares: dict[tuple[str, str], Share] = {}
    for kind, path in found:
        try:
            stat = path.stat()
        except OSError:
            continue  # another process has deleted it
        study = _owner(path.stem, needs)
        share = shares.setdefault((kind, study), Share(KINDS[kind], study))
        waste = kind in needed and _is_waste(path, stat.st_mtime, known - needed[kind])
        share.add(path, stat.st_size, needed=not waste)
    return [*shares.values(), *_database(context)]


def _is_waste(path: Path, written_at: float, unneeded: set[str]) -> bool:
    """Whether a file, written at that time in seconds since 1970, can go: its key is one of these,
    or the process that wrote it died at that."""
    age = time.time() - written_at
    if path.name.startswith("."):
        return age > WRITE_SECONDS
    return age > RECENT_SECONDS and path.suffix in SUFFIXES and path.stem in unneeded


def free(shares: Iterable[Share]) -> None:
    """Delete what is not needed. Raises UserError where a file cannot be deleted."""
    for path in (path for one in shares for path in one.unneeded):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot delete {path}: {error.strerror}") from None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _needs(context: StudyContext[StudyConfig]) -> _Needs:
    store, study = context.store, context.study
    baselines = set(store.baselines(context.name).values())
    measured = store.keys(context.name) | set(complete_keys(context.trials()).values())
    has_speed = SPEED in objectives_in(study.user_attrs)
    points = [
        Point(
            key,
            None,
            one.size_bytes,
            one.valid_measure,
            one.tokens_per_second,
            one.recipe,
            relative_speed=one.relative_speed if has_speed else None,
        )
        for key, one in store.measurements(sorted(measured)).items()
    ]
    limits = limits_of(study)
    within = [one for one in points if not limits.broken(one.size_bytes, one.valid_measure)]
    return _Needs(
        context.name,
        measured | store.repeat_keys(context.name),
        baselines | {one.name for of in (points, within) for one in front_of("", of).points},
        measured if context.slots.unfinished() else set(),
    )


def _owner(key: str, needs: Iterable[_Needs]) -> str:
    """The one study that has measured the key, "" for none or several."""
    names = [one.study for one in needs if key in one.measured]
    return names[0] if len(names) == 1 else ""


def _database(context: StudyContext[StudyConfig]) -> Iterator[Share]:
    """The database, where it is a file."""
    file = context.config.storage.file
    if file is not None and file.exists():
        share = Share("database")
        for path in file.parent.glob(f"{file.name}*"):
            share.add(path, path.stat().st_size, needed=True)
        yield share
