import pytest

from adapters.images.reference import Reference, image_hex, is_id_prefix, is_image_id, is_loopback, normalise, parse
from domain.errors import InvalidRequest

D = "sha256:" + "ab" * 32

VALID = {
    "busybox": "docker.io/library/busybox:latest",
    "busybox:1.36": "docker.io/library/busybox:1.36",
    "library/busybox": "docker.io/library/busybox:latest",
    "docker.io/busybox": "docker.io/library/busybox:latest",
    "index.docker.io/busybox": "docker.io/library/busybox:latest",
    "index.docker.io/library/busybox": "docker.io/library/busybox:latest",
    "kubernetes/pause": "docker.io/kubernetes/pause:latest",
    "quay.io/a/b/c:v1": "quay.io/a/b/c:v1",
    "localhost/x": "localhost/x:latest",
    "localhost:5000/x": "localhost:5000/x:latest",
    "localhost:5000/x:5": "localhost:5000/x:5",
    "127.0.0.1:5000/a/b:t": "127.0.0.1:5000/a/b:t",
    "[::1]:5000/x": "[::1]:5000/x:latest",
    "[::1]/x:t": "[::1]/x:t",
    "Registry/x": "Registry/x:latest",
    f"busybox@{D}": f"docker.io/library/busybox@{D}",
    f"busybox:1.36@{D}": f"docker.io/library/busybox@{D}",
    f"localhost:5000/x:1@{D}": f"localhost:5000/x@{D}",
    "a.b/c__d/e-f.g": "a.b/c__d/e-f.g:latest",
    "a.b/c---d": "a.b/c---d:latest",
    "x:" + "t" * 128: "docker.io/library/x:" + "t" * 128,
}
INVALID = [
    "",
    " busybox",
    "busybox ",
    "Busybox",
    "docker.io/Upper/x",
    "busybox:",
    "busybox:.dot",
    "x:" + "t" * 129,
    "a//b",
    "/a",
    "a/",
    "a..b/x/../y",
    "quay.io/../etc",
    "quay.io/a/../../etc",
    "-oci",
    "--help",
    "a b",
    "a\nb",
    "a\0b",
    "x@sha256:abc",
    "x@sha256:" + "AB" * 32,
    "x@sha512:" + "ab" * 64,
    f"x@{D}@{D}",
    f"@{D}",
    D,
    "ab" * 32,
    "reg:99999/x",
    "reg:port/x",
    "[::1/x",
    "[zz]/x",
    "a___b",
    "ünicode",
    "q.io/" + "a" * 300,
    "x" * 600,
]


@pytest.mark.parametrize(("text", "normal"), VALID.items())
def test_normalises_as_docker_does(text: str, normal: str) -> None:
    assert normalise(text) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize("text", INVALID)
def test_refuses_with_a_clear_text(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^cannot read image reference .*: \S") as caught:
        parse(text)
    assert len(caught.value.text) < 250


def test_parts() -> None:
    assert parse(f"localhost:5000/a/b:t@{D}") == Reference("localhost:5000", "a/b", "", D)
    assert parse("a/b:t") == Reference("docker.io", "a/b", "t", "")
    assert parse("a/b").name == "docker.io/a/b"


def test_ids() -> None:
    assert is_image_id(D) and is_image_id("ab" * 32)
    assert not is_image_id("ab" * 31) and not is_image_id(D.upper()) and not is_image_id(D + "\n")
    assert is_id_prefix("abc") and is_id_prefix("sha256:abc") and not is_id_prefix("ab") and not is_id_prefix("xyz")
    assert image_hex(D) == image_hex("ab" * 32) == "ab" * 32
    for bad in ("../etc", "sha256:../../x", "", "sha256:" + "g" * 64, D + "/x"):
        with pytest.raises(InvalidRequest):
            image_hex(bad)


@pytest.mark.parametrize("registry", ["localhost", "localhost:5000", "127.0.0.1", "127.9.8.7:1", "[::1]", "[::1]:5000"])
def test_loopback(registry: str) -> None:
    assert is_loopback(registry)


@pytest.mark.parametrize(
    "registry", ["docker.io", "128.0.0.1", "127.0.0.1.evil.io", "localhost.io:1", "[::2]:5000", ""]
)
def test_not_loopback(registry: str) -> None:
    assert not is_loopback(registry)
