"""What a card says that no command's test sees."""

from __future__ import annotations

from lmcore.networks.classifier_settings import ClassifierSettings
from lmcore.word_settings import ContextSettings, WordSettings
from search.show.card import _kind


def test_a_network_is_named_with_what_reads_its_words() -> None:
    alone = ClassifierSettings(hidden=6, pooled=6, words=WordSettings(embedding=4))
    assert _kind(alone.plain()) == "classifier of layers of 6 LSTM units a direction"
    assert (
        _kind({"kind": "tagger", "hidden": 6, "layers": 2})
        == "tagger of 2 x 6 LSTM units a direction"
    )
    words = WordSettings(embedding=4, context=ContextSettings(layers=2, hidden=4))
    assert _kind(alone.model_copy(update={"words": words}).plain()) == (
        "classifier of layers of 6 LSTM units a direction, which reads words by a language "
        "model of 2 x 4 units a direction"
    )
