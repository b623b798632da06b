"""Namespaces that could not be made are told, whatever was in the way."""

import os

import pytest

from adapters.oci import namespaces
from domain.errors import NetworkFailed


@pytest.mark.parametrize(
    ("raised", "told"),
    [(OSError(1, "", "/x"), NetworkFailed), (ValueError("a bug"), ValueError), (KeyError(), KeyError)],
)
def test_no_error_stays_in_the_thread(
    raised: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    def refuse(*given: object) -> None:
        raise raised

    monkeypatch.setattr(namespaces, "_in_this_thread", refuse)
    with pytest.raises(told):
        namespaces.make({"net": os.path.join(str(tmp_path), "net")})
