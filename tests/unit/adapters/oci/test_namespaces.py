"""Namespaces that could not be made are told, whatever was in the way."""

import errno
import os
from dataclasses import replace

import pytest

from adapters.oci import namespaces
from domain.errors import InvalidRequest, NetworkFailed
from domain.sysctls import Setting

true = os.open


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


ASKED = Setting("net.ipv4.ip_forward", ("net", "ipv4", "ip_forward"), "2", True)


@pytest.mark.parametrize("call", ["open", "write"])
@pytest.mark.parametrize(
    ("number", "told"),
    [
        *[(number, InvalidRequest) for number in (errno.EINVAL, errno.ERANGE, errno.EACCES, errno.EPERM, errno.EISDIR)],
        *[(number, NetworkFailed) for number in (errno.EIO, errno.ENOMEM, errno.EMFILE)],
    ],
)
def test_what_the_kernel_refuses_is_the_clients_fault(
    number: int, told: type[Exception], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", lambda *given: true(os.devnull, os.O_WRONLY))
    monkeypatch.setattr(os, call, failing)
    text = f"^sysctl net.ipv4.ip_forward: '2' cannot be set: {os.strerror(number)}$"
    with pytest.raises(told, match=text):
        namespaces._set(ASKED)
    with pytest.raises(NetworkFailed, match=text):
        # A default is ours: nobody asked for it.
        namespaces._set(replace(ASKED, asked=False))


def test_a_sysctl_that_is_not_there() -> None:
    missing = replace(ASKED, name="net.no_such", parts=("net", "no_such"))
    with pytest.raises(InvalidRequest, match=r"sysctl net\.no_such: a pod's namespaces have none of this name"):
        namespaces._set(missing)
    namespaces._set(replace(missing, asked=False))
