"""A model in plain PyTorch: the tensors of an `nn.Embedding`, an `nn.LSTM` and an `nn.Linear`.

Names are those of most programs: `encoder.weight`, `rnn.weight_ih_l0`, `rnn.weight_hh_l0`,
`rnn.bias_ih_l0`, `rnn.bias_hh_l0`, ..., `decoder.weight`, `decoder.bias`. All are float32.

    state = safetensors.torch.load_file("model.safetensors")
    words, embedding = state["encoder.weight"].shape
    hidden = state["rnn.weight_hh_l0"].shape[1]
    encoder, rnn, decoder = nn.Embedding(words, embedding), nn.LSTM(...), nn.Linear(hidden, words)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcore.cells import LSTM
from lmcore.errors import UserError
from lmcore.model import LanguageModel
from lmcore.sites import BIAS, INPUT, PROJECTION, RECURRENT


@torch.no_grad()
def plain_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Name -> tensor, every matrix dense. A tied matrix stands under both its names.

    Layers of unequal width are filled up with units that stay zero: `nn.LSTM` has one width. A
    projection is multiplied into what reads its output. Raises UserError for a cell that PyTorch
    has not.
    """
    if not isinstance(model.settings.cell, LSTM):
        raise UserError(
            f"safetensors: the layers are of kind {model.settings.cell.kind}, and PyTorch's names "
            f"are those of nn.LSTM; model.lmb and model.onnx hold every kind"
        )
    width = max(layer.hidden for layer in model.layers)
    found = {"encoder.weight": model.embedding.dense()}
    before: Tensor | None = None  # what makes a layer's input of the units before it
    for index, layer in enumerate(model.layers):
        inputs = layer.weights[INPUT].dense()  # (4 hidden, in)
        if before is not None:
            inputs = _wider(inputs @ before, width)
        found[f"rnn.weight_ih_l{index}"] = _filled(inputs, layer.hidden, width)
        recurrent = _wider(layer.recurrent(RECURRENT), width)
        found[f"rnn.weight_hh_l{index}"] = _filled(recurrent, layer.hidden, width)
        bias = _filled(layer.vectors[BIAS].value().unsqueeze(1), layer.hidden, width).squeeze(1)
        found[f"rnn.bias_ih_l{index}"] = bias
        found[f"rnn.bias_hh_l{index}"] = torch.zeros_like(bias)
        projection = layer.weights.get(PROJECTION)
        before = torch.eye(layer.hidden) if projection is None else projection.dense()
    decoder = model.decoder.dense()
    if model.decoder_projection is not None:
        decoder = decoder @ model.decoder_projection.dense()
    assert before is not None, "a model has a layer"
    found["decoder.weight"] = _wider(decoder @ before, width)
    found["decoder.bias"] = model.decoder_bias.value()
    return {name: one.detach().float().contiguous().clone() for name, one in found.items()}


def _filled(matrix: Tensor, hidden: int, width: int) -> Tensor:
    """The matrix (4 hidden, in) with rows of zero, (4 width, in): gates i, f, g, o stay apart. A
    unit without weights has g = tanh 0, so that its cell and its output stay zero."""
    found = matrix.new_zeros(4, width, matrix.shape[1])
    found[:, :hidden] = matrix.view(4, hidden, -1)
    return found.flatten(0, 1)


def _wider(matrix: Tensor, width: int) -> Tensor:
    """The matrix (out, in) with columns of zero, (out, width)."""
    found = matrix.new_zeros(matrix.shape[0], width)
    found[:, : matrix.shape[1]] = matrix
    return found
