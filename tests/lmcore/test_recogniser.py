"""A real client of the exported files: sherpa-onnx picks the sentence that the model finds best."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from recogniser import FRAMES, heard_streaming, heard_whole, transducer
from test_cells import logits_of
from test_onnx import built, words_of

from lmcore.cells import LSTM, Cell
from lmcore.looped_cells import RHN
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.onnx.networks import sentences, streaming, tokens_text
from lmcore.vocabulary import PieceVocabulary, Vocabulary

PIECES = ["<blk>", "<sos/eos>", "<unk>", *["▁", "S", "▁THE", "▁A", "ED", "ING"]]
VOCABULARIES = {
    "words": words_of(40),
    "pieces": PieceVocabulary([*PIECES, *[f"▁W{index}" for index in range(31)]]),
}
CELLS = {"lstm": LSTM(), "rhn": RHN(depth=2)}
LIKELY, LEAST_LEAD = (5, 7), 0.05


def model_of(cell: Cell, words: int) -> LanguageModel:
    """Two layers of unequal widths in 4 bits, whose opinions are strong."""
    settings = ModelSettings(layers=2, hidden=(64, 48), embedding=32, tied=False, cell=cell)
    dense = random_model(settings, words, 0.5, torch.Generator().manual_seed(6)).eval()
    bits = {"kind": "uniform", "step": 0.5, "rounding": 0.0}
    return built(dense, {"sites": {"*": {"bits": bits}}})


def scores_of(
    model: LanguageModel, vocabulary: Vocabulary, ends: bool
) -> dict[tuple[str, ...], float]:
    """Each sentence that the transducer allows -> its log-probability, its end's where `ends`."""
    found = {}
    for ids in product(LIKELY, repeat=FRAMES):
        text = torch.tensor([vocabulary.sos, *ids, *([vocabulary.eos] if ends else [])])
        scores = logits_of(model, text[:-1, None]).view(len(text) - 1, -1).log_softmax(-1)
        found[tuple(vocabulary.words[index] for index in ids)] = float(
            scores[range(len(text) - 1), text[1:]].sum()
        )
    return found


def best_of(scores: dict[tuple[str, ...], float]) -> tuple[str, ...]:
    """The sentence of the highest score, which no other comes near."""
    best, second, *_ = sorted(scores, key=lambda one: -scores[one])
    assert scores[best] - scores[second] > LEAST_LEAD
    return best


def exported(folder: Path, model: LanguageModel, vocabulary: Vocabulary) -> Path:
    (folder / "model.onnx").write_bytes(streaming(model, vocabulary).data)
    (folder / "model_nll.onnx").write_bytes(sentences(model, vocabulary).data)
    (folder / "tokens.txt").write_text(tokens_text(vocabulary))
    transducer(folder, len(vocabulary), LIKELY)
    return folder


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_the_language_model_decides(vocabulary: Vocabulary, cell: Cell, tmp_path: Path) -> None:
    model, paths = model_of(cell, len(vocabulary)), len(LIKELY) ** FRAMES
    folder = exported(tmp_path, model, vocabulary)
    shown = {word: word.replace("▁", " ") for word in vocabulary.words}
    by_token = best_of(scores_of(model, vocabulary, ends=False))
    assert heard_streaming(folder, folder / "model.onnx", paths) == tuple(map(shown.get, by_token))
    whole = best_of(scores_of(model, vocabulary, ends=True))
    assert heard_whole(folder, folder / "model_nll.onnx", paths) == tuple(map(shown.get, whole))


@pytest.mark.parametrize("missing", ["num_layers", "hidden_size", "sos_id"])
def test_without_one_of_the_metadata_the_recogniser_exits(missing: str, tmp_path: Path) -> None:
    """So they are in the file; `test_onnx` looks at their values."""
    folder = exported(tmp_path, model_of(LSTM(), 40), VOCABULARIES["words"])
    code = (
        "import sys; from pathlib import Path; from recogniser import heard_streaming\n"
        "folder = Path(sys.argv[1])\n"
        "print(heard_streaming(folder, folder / 'model.onnx', 16))"
    )

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(folder)]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)

    if missing == "num_layers":
        assert run().returncode == 0
    file = onnx.load(folder / "model.onnx")
    left = {one.key: one.value for one in file.metadata_props if one.key != missing}
    del file.metadata_props[:]
    helper.set_model_props(file, left)
    onnx.save(file, folder / "model.onnx")
    done = run()
    assert done.returncode != 0
    assert missing in done.stdout + done.stderr
