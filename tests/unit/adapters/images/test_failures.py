import errno
import os

import pytest

from adapters.images.failures import of_pull, said, storage_failure
from adapters.images.process import Finished
from domain.errors import DiskFull, Failure, PullFailed, RegistryUnavailable, StorageFailed

REF = "q.io/denied/404:latest"


def fatal(text: str) -> Finished:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return Finished(1, b"", f'Getting image source signatures\ntime="2026" level=fatal msg="{escaped}"\n')


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("pinging container registry q.io: dial tcp 1.2.3.4:443: connect: connection refused", RegistryUnavailable),
        ("dial tcp: lookup q.io on 1.1.1.1:53: no such host", RegistryUnavailable),
        ("Error fetching blob: invalid status code from registry 500 (Internal Server Error)", RegistryUnavailable),
        ("net/http: TLS handshake timeout", RegistryUnavailable),
        ("happened during read: unexpected EOF", RegistryUnavailable),
        ("reading manifest 404 in q.io/denied/404: manifest unknown", PullFailed),
        ("unauthorized: authentication required", PullFailed),
        ("toomanyrequests: You have reached your pull rate limit", PullFailed),
        ("x509: certificate signed by unknown authority", PullFailed),
        ("Digest did not match, expected sha256:1, got sha256:2: EOF", PullFailed),
        ("write /x/storage1/2: no space left on device", DiskFull),
        ("write /x/layers.json: disk quota exceeded", DiskFull),
        ("mkdir /x/overlay: read-only file system", StorageFailed),
        ("Source image rejected: Running image docker://x is rejected by policy.", PullFailed),
        ("something new", PullFailed),
    ],
)
def test_kinds(text: str, kind: type[Failure]) -> None:
    error = of_pull(REF, fatal(text), registry=True)
    assert type(error) is kind
    if kind is RegistryUnavailable:
        assert error.text.startswith("RegistryUnavailable")
        assert type(of_pull(REF, fatal(text), registry=False)) is PullFailed
    else:
        assert "RegistryUnavailable" not in error.text
    assert f"cannot pull image {REF}: " in error.text


def test_the_name_of_an_image_decides_nothing() -> None:
    text = f'pinging "docker://{REF}" q.io/denied/404: connect: connection refused'
    assert type(of_pull(REF, fatal(text), registry=True)) is RegistryUnavailable


def test_signature_failures_begin_as_the_kubelet_wants_them() -> None:
    assert of_pull(REF, fatal("Source image rejected: x"), registry=True).text.startswith("SignatureValidationFailed")


def test_what_is_quoted_is_clean_and_bounded() -> None:
    assert said(fatal('Get "https://b.io/x?X-Amz-Signature=secret": EOF')) == 'Get "https://b.io/x?…": EOF'
    assert said(Finished(-9, b"", "")) == "skopeo was ended by signal 9"
    assert said(Finished(2, b"", "")) == "skopeo exited with 2"
    assert "\x1b" not in said(fatal("a\x1b[31mb"))
    assert len(said(fatal("x" * 10_000))) < 700


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EACCES, StorageFailed)]
)
def test_our_own_file_operations(number: int, kind: type[Failure]) -> None:
    error = storage_failure("cannot write it", OSError(number, os.strerror(number), "/secret/path"))
    assert type(error) is kind and error.text == f"cannot write it: {os.strerror(number)}"
