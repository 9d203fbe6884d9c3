"""A short round of the campaign in tests/fuzz.py; make fuzz plays more."""

import pytest
from fuzz import PARTS, run_part

ROUNDS = dict(pictures=60, annotations=60, folders=40)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_wrong_is_said_in_one_line(part, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # the rounds set their own
    assert run_part(part, ROUNDS.get(part, 4), seed=0) == []
