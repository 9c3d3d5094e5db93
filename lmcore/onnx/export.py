"""A bundle as ONNX files in a folder, verified by a process that has the files alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmcore.bundle import Bundle
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.files import write_atomic
from lmcore.loss import negative_log_likelihood
from lmcore.model import LanguageModel
from lmcore.onnx import scoring
from lmcore.onnx.alone import sizes_of, tried
from lmcore.onnx.networks import TOKENS_FILE, sentences, streaming, tokens_text

WORSE = 1.005  # how many times the bundle's perplexity a file's may be


@dataclass(frozen=True)
class OnnxRecord:
    """What was exported, and what a process found that read nothing but the files.

    The perplexities are of one text of so many `tokens`: read token by token with the state
    carried through it (`perplexity`, of model.onnx), and sentence by sentence from a new start
    (`sentence_perplexity`, of model_nll.onnx), each beside the bundle's own.
    """

    bytes: dict[str, int]  # file -> its size
    compressed_bytes: dict[str, int]  # file -> its size as it is downloaded, by zlib
    words: int
    tokens: int
    bundle_perplexity: float
    perplexity: float
    bundle_sentence_perplexity: float
    sentence_perplexity: float
    tokens_per_second: float  # of model.onnx, batch 1, one thread, in onnxruntime
    integer_activations: bool  # whether products of integers round what they multiply
    operators: dict[str, str]  # site -> the operators of model.onnx that compute with it

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def export_onnx(
    bundle: Bundle, folder: Path, text: Tensor, perplexity: float | None = None
) -> OnnxRecord:
    """Write model.onnx, model_nll.onnx and tokens.txt into the folder.

    `text` (tokens,) are the ids that both files are scored on; `perplexity` is the bundle's own on
    it, in one stream, which is measured where it is not given. Where products of integers, which
    round what they multiply, cost too much perplexity, the files multiply floats.

    Raises UserError where a file's perplexity is more than 0.5% above the bundle's, and writes
    nothing then.
    """
    eos, ids = bundle.vocabulary.eos, text.cpu()
    if perplexity is None:
        perplexity = score(bundle.language, ids, eos).value
    by_sentence = sentence_perplexity(bundle.language, ids, eos)
    said = ""
    for integers in (True, False):
        files, operators = _written(bundle, integers)
        found = _scored(files, ids, eos)
        own = {"perplexity": perplexity, "sentence_perplexity": by_sentence}
        worse = [name for name, value in own.items() if not found[name] <= WORSE * value]
        if not worse:
            break
        said = ", ".join(f"{found[name]:.3f} against {own[name]:.3f}" for name in worse)
    else:
        raise UserError(
            f"the exported ONNX files do not predict as the bundle does: perplexity {said} on "
            f"{len(ids):,} tokens; nothing was written"
        )
    for name, data in files.items():
        write_atomic(folder / name, data)
    sizes, compressed = sizes_of(files)
    return OnnxRecord(
        bytes=sizes,
        compressed_bytes=compressed,
        words=len(bundle.vocabulary),
        tokens=len(ids),
        bundle_perplexity=perplexity,
        perplexity=found["perplexity"],
        bundle_sentence_perplexity=by_sentence,
        sentence_perplexity=found["sentence_perplexity"],
        tokens_per_second=found["tokens_per_second"],
        integer_activations=integers,
        operators=operators,
    )


def _written(bundle: Bundle, integers: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files, and the operators of the first."""
    by_token = streaming(bundle.language, bundle.vocabulary, integers)
    files = {
        scoring.STREAMING: by_token.data,
        scoring.SENTENCES: sentences(bundle.language, bundle.vocabulary, integers).data,
        TOKENS_FILE: tokens_text(bundle.vocabulary).encode(),
    }
    return files, by_token.operators


def _scored(files: dict[str, bytes], ids: Tensor, eos: int) -> dict[str, float]:
    """What `lmcore.onnx.scoring` finds."""
    return tried(files, scoring.__file__, {"ids": ids.numpy(), "eos": np.array(eos, np.int64)})


@torch.no_grad()
def sentence_perplexity(model: LanguageModel, ids: Tensor, eos: int) -> float:
    """The perplexity of the sentences of a text (tokens,) and their ends, each from a new start."""
    model.eval()
    found, total = scoring.sentences_of(ids.numpy(), eos), 0.0
    for x, lengths in scoring.batches_of(found):
        column = np.full((len(x), 1), eos)
        before = torch.from_numpy(np.concatenate([column, x], 1).T.copy())  # (L + 1, N)
        targets = np.concatenate([x, column], 1)
        targets[np.arange(len(x)), lengths] = eos
        after = torch.from_numpy(targets.T.copy())
        hidden, _ = model(before, model.zero_state(len(x)))
        nats = negative_log_likelihood(*model.head(hidden), after.flatten()).view(after.shape)
        own = torch.arange(len(before)).unsqueeze(1) <= torch.from_numpy(lengths)
        total += float(nats.double()[own].sum())
    return scoring.perplexity(total, sum(len(one) + 1 for one in found))
