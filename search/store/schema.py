"""Our tables beside Optuna's. A change of them is a new file in `migrations/versions`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Float, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class ReleaseRow(Base):
    """The release of lmpareto that brought the tables to a version: a later database names it."""

    __tablename__ = "lmpareto_release"

    version: Mapped[str] = mapped_column(String(32), primary_key=True)
    release: Mapped[str] = mapped_column(String(64))


class MeasurementRow(Base):
    """The measurement of a recipe, under the hash of everything that it depends on."""

    __tablename__ = "lmpareto_measurement"

    key: Mapped[str] = mapped_column(String(16), primary_key=True)
    recipe: Mapped[dict[str, Any]] = mapped_column(JSON)
    size_bytes: Mapped[int]
    valid_measure: Mapped[float] = mapped_column("valid_perplexity", Float(53))  # of any task
    tokens_per_second: Mapped[float] = mapped_column(Float(53))
    updates: Mapped[int]
    seconds: Mapped[float] = mapped_column(Float(53))
    sha256: Mapped[str] = mapped_column(String(64))
    provenance: Mapped[dict[str, Any]] = mapped_column(JSON)
    measured_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    relative_speed: Mapped[float | None] = mapped_column(Float(53))


class BaselineRow(Base):
    """A baseline: a recipe that a study measured beside its search."""

    __tablename__ = "lmpareto_baseline"

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    key: Mapped[str] = mapped_column(String(16))


class RungRow(Base):
    """The measurement of a trial at a rung. The first rung is 0, however long it trains."""

    __tablename__ = "lmpareto_rung"

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True)
    rung: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(16))


class RepeatRow(Base):
    """The recipe of a file trained again with another seed.

    `file` is the key of the file's own measurement, `key` that of the measurement with the other
    seed. The first repeat is 1: the file itself is the first seed.
    """

    __tablename__ = "lmpareto_repeat"

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    file: Mapped[str] = mapped_column(String(16), primary_key=True)
    repeat: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(16))


class EffectRow(Base):
    """The effect of one setting of a part of the study's space, alone and without training.

    `key` is that of the recipe. `nats` is what the setting adds to ln perplexity; None in studies
    of earlier versions, which measured the recipe as a trial is measured.
    """

    __tablename__ = "lmpareto_effect"

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # 0 is the model that the parts act on
    part: Mapped[str] = mapped_column(Text)  # what it acts on; empty for number 0
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    key: Mapped[str] = mapped_column(String(16))
    site_bytes: Mapped[dict[str, int]] = mapped_column(JSON)
    nats: Mapped[float | None] = mapped_column(Float(53))


class SlotRow(Base):
    """One of a study's jobs: a trial, a baseline by name, or a repeat.

    A worker holds its slot until `expires_at`, in seconds since 1970 by the database's clock, and
    keeps renewing that. Any worker may claim a slot that nobody holds or that has expired. `trial`
    is the number of the Optuna trial that fills the slot, None before there is one.
    """

    __tablename__ = "lmpareto_slot"
    __table_args__ = (UniqueConstraint("study", "trial"),)

    study: Mapped[str] = mapped_column(String(512), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8), primary_key=True)  # baseline, trial, repeat
    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    done: Mapped[bool]
    trial: Mapped[int | None]
    worker: Mapped[str | None] = mapped_column(String(128))
    expires_at: Mapped[float | None] = mapped_column(Float(53))
    attempts: Mapped[int]
    fraction: Mapped[float] = mapped_column(Float(53))  # of the job that is done
    outcome: Mapped[str | None] = mapped_column(Text)  # for people
