"""What the files of a study hold of each site, where the files are at hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from lmcore import sites
from lmcore.errors import UserError
from lmcore.files import write_json
from lmcore.frame import Frame, read_frame
from lmcore.methods import PLAIN_SITE
from lmcore.recipe import Recipe, leaf_specs
from lmcore.settings import parse
from search.config import DENSE_BASELINE
from search.describe import setting_text
from search.measurement import Measurement
from search.show.report.record import Site
from search.study.published import LARGEST, WRONG
from search.study.results import Results

SITES = "sites.json"  # of a published study: SHA-256 of a file -> site -> its bytes
_STORED = TypeAdapter(dict[str, dict[str, Annotated[int, Field(ge=0, lt=LARGEST)]]])


@dataclass(frozen=True)
class Files:
    """The files of a study: its bundles by key, and those that it published by name."""

    results: Results
    bundles: Path
    published: Path | None

    def frame(self, name: str, measured: Measurement) -> Frame | None:
        """The frame of a measured file, None where that very file is not at hand."""
        for path in self._paths(name, measured):
            if path.is_file():
                try:
                    frame = read_frame(path)
                except UserError:  # damaged: it is made again when somebody needs it
                    continue
                if frame.sha256 == measured.sha256:
                    return frame
        return None

    def site_bytes(self, frame: Frame | None, measured: Measurement) -> dict[str, int] | None:
        """Site -> its bytes in a measured file: by its frame, else by what was published of it;
        None where neither is at hand."""
        if frame:
            return _sizes({leaf: sum(streams) for leaf, streams in frame.parts.leaves.items()})
        return self._stored.get(measured.sha256)

    @cached_property
    def _stored(self) -> dict[str, dict[str, int]]:
        """What was published of files that need not be at hand; nothing where it is damaged."""
        if self.published is None:
            return {}
        try:
            return _STORED.validate_python(json.loads((self.published / SITES).read_bytes()))
        except (OSError, *WRONG):
            return {}

    def _paths(self, name: str, measured: Measurement) -> Iterator[Path]:
        yield self.bundles / f"{measured.key}.lmb"
        if self.published is None:
            return
        for each in (name, *self.results.limits.get(name, ())):
            yield self.published / "bundles" / f"{each.replace(' ', '_')}.lmb"
        if name in self.results.baselines:
            yield from sorted(self.published.glob("dense*.lmb"))

    @cached_property
    def dense(self) -> Frame | None:
        """The frame of the dense model's file, else that of any baseline of the same shape."""
        baselines = self.results.baselines
        order = sorted(baselines, key=lambda name: (name != DENSE_BASELINE, name))
        for name in order:
            layers = baselines[name].recipe.get("layers", {})
            if not any(layers.values()) and (frame := self.frame(name, baselines[name])):
                return frame
        return None

    @property
    def dense_bytes(self) -> int | None:
        """The dense size: 4 bytes a weight; None where the dense model is not at hand."""
        if self.dense is None:
            return None
        return 4 * self.dense.header.model.weights(self.dense.header.words)

    def dense_size(self, baseline: str) -> int | None:
        """4 bytes a weight of a baseline without compression: of its own file, where that is at
        hand, else of the study's own dense model."""
        frame = self.frame(baseline, self.results.baselines[baseline])
        if frame is None:
            return self.dense_bytes
        return 4 * frame.header.model.weights(frame.header.words)


def write_sites(files: Files, names: Iterable[str], folder: Path) -> None:
    """Write how many bytes the sites of these files have, as far as that is known."""
    measured = ((name, files.results.measured(name)) for name in names)
    known = {one.sha256: files.site_bytes(files.frame(name, one), one) for name, one in measured}
    write_json(folder / SITES, {key: found for key, found in known.items() if found is not None})


def sites_of(name: str, measured: Measurement, files: Files) -> tuple[list[Site], bool]:
    """The sites of a file, and whether their bytes are those of the file.

    Where these are not known they are its packed size, which the file does not exceed, by the
    recipe and the shape of the dense model; None where that is not at hand either.
    """
    recipe = measured.recipe
    frame = files.frame(name, measured)
    known = files.site_bytes(frame, measured)
    heads: Mapping[str, Mapping[str, Any]] = {}
    shapes: Mapping[str, Sequence[int]] = {}
    if frame:
        heads = {site: head.structure.plain() for site, head in frame.header.sites.items()}
        shapes = frame.header.site_shapes
    sizes = _packed(recipe, files) if known is None else known
    dense = files.dense
    if dense and measured.provenance.get("dense", dense.sha256) == dense.sha256:
        shapes = {**shapes, **dense.header.site_shapes}
    found = [
        _site(site, {**PLAIN_SITE, **settings}, heads.get(site), sizes.get(site), shapes.get(site))
        for site, settings in recipe.get("sites", {}).items()
    ]
    return found, known is not None


def _site(
    name: str,
    settings: Mapping[str, Any],
    stored: Mapping[str, Any] | None,
    size_bytes: int | None,
    shape: Sequence[int] | None,
) -> Site:
    """`stored` is the structure that the file has: of an energy, it has the rank."""
    structure = stored or settings["structure"]
    weights = math.prod(shape) if shape else 0
    return Site(
        site=name,
        structure=structure["kind"],
        rank=_rank(structure.get("rank")),
        zeros=settings["sparsity"],
        bits=_bits(settings["bits"]),
        bits_a_weight=round(8 * size_bytes / weights, 3) if weights and size_bytes else None,
        size_bytes=size_bytes,
    )


def _rank(rank: Any) -> str:
    """ "40", "4 x 8", "energy=0.9"; empty where there is none."""
    if isinstance(rank, list | tuple):
        return " x ".join(map(str, rank))
    return setting_text(rank).strip("()")


def _bits(codec: Mapping[str, Any]) -> str:
    """ "uniform, step 0.7", "linear, 8 bits", "float16"."""
    if "step" in codec:
        return f"{codec['kind']}, step {setting_text(codec['step'])}"
    if "bits" in codec:
        return f"{codec['kind']}, {codec['bits']} bit{'' if codec['bits'] == 1 else 's'}"
    return str(codec["kind"])


def _sizes(leaves: Mapping[str, int]) -> dict[str, int]:
    """Site -> its bytes, of those of its leaves."""
    found: dict[str, int] = {}
    for leaf, size_bytes in leaves.items():
        if site := sites.site_of(leaf):
            found[site] = found.get(site, 0) + size_bytes
    return found


def _packed(recipe: Mapping[str, Any], files: Files) -> dict[str, int]:
    """Site -> its packed size."""
    if files.dense is None:
        return {}
    header = files.dense.header
    try:
        specs = leaf_specs(parse(Recipe, dict(recipe), "recipe"), header.model, header.words)
        return _sizes({leaf: spec.packed_size for leaf, spec in specs.items()})
    except (UserError, KeyError, ValueError):  # of another dense model, or of another version
        return {}
