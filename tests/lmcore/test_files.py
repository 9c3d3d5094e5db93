"""Files are written whole, and read by others than Python."""

from __future__ import annotations

import json
import math

from lmcore.files import finite


def test_json_for_others_has_no_number_that_json_has_not() -> None:
    data = {"perplexities": [1.5, math.inf, -math.inf], "rate": math.nan, "of": {"é": 0.1 + 0.2}}
    expected = {"perplexities": [1.5, None, None], "rate": None, "of": {"é": 0.1 + 0.2}}
    assert finite(data) == expected
    assert json.loads(json.dumps(finite(data), allow_nan=False)) == expected
