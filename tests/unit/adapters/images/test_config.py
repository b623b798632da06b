import json
from typing import Any

import pytest

from adapters.images.config import CONFIG_MAX, BadConfig, ImageConfig, parse_config

D = "sha256:" + "ab" * 32


def of(config: Any, **more: Any) -> bytes:
    return json.dumps({"config": config, **more}).encode()


def test_reads_what_a_container_needs_and_nothing_else() -> None:
    config = parse_config(
        of(
            {
                "Env": ["A=1", "B="],
                "Entrypoint": ["/e"],
                "Cmd": ["c"],
                "WorkingDir": "/w",
                "User": "www:33",
                "StopSignal": "SIGRTMIN+3",
                "Volumes": {"/v": {}, "/a": {}},
                "Labels": {"x": "y"},
                "ExposedPorts": {"80/tcp": {}},
            },
            rootfs={"type": "layers", "diff_ids": [D]},
        )
    )
    assert config == ImageConfig(
        env=("A=1", "B="),
        entrypoint=("/e",),
        cmd=("c",),
        working_dir="/w",
        user="www:33",
        stop_signal="SIGRTMIN+3",
        volumes=("/a", "/v"),
        diff_ids=(D,),
    )


@pytest.mark.parametrize(
    "data", [b"{}", of(None), of({}), of({"Env": None, "Cmd": None, "Volumes": None, "User": None})]
)
def test_absent_and_null_are_empty(data: bytes) -> None:
    assert parse_config(data) == ImageConfig()


HOSTILE = {
    "empty": b"",
    "no json": b"{",
    "no utf-8": b'{"config": "\xff"}',
    "no object": b"[]",
    "deep": b"[" * 100_000,
    "huge": b" " * (CONFIG_MAX + 1),
    "config list": of([]),
    "env string": of({"Env": "A=1"}),
    "env numbers": of({"Env": [1]}),
    "env many": of({"Env": ["A=1"] * 10_001}),
    "env long": of({"Env": ["A=" + "x" * 200_000]}),
    "nul": of({"Cmd": ["a\0b"]}),
    "surrogate": b'{"config": {"Cmd": ["\\ud800"]}}',
    "workdir object": of({"WorkingDir": {}}),
    "volumes list": of({"Volumes": ["/v"]}),
    "user long": of({"User": "u" * 4097}),
    "diff id": of({}, rootfs={"diff_ids": ["../../x"]}),
    "diff ids many": of({}, rootfs={"diff_ids": [D] * 501}),
    "rootfs string": of({}, rootfs="x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_is_refused(name: str) -> None:
    with pytest.raises(BadConfig):
        parse_config(HOSTILE[name])


@pytest.mark.parametrize(
    "user",
    ["", "0", "33:33", "www-data:100", "a.b@c", "1002:", ":33", "4294967296", "-1", "a\nroot", "../x", "9" * 200],
)
def test_a_user_is_kept_as_written_for_whoever_makes_a_container(user: str) -> None:
    assert parse_config(of({"User": user})).user == user


def test_items_of_env_that_set_nothing_are_left_out() -> None:
    assert parse_config(of({"Env": ["A=1", "B", "", "=8300", "=", "C==", "D="]})).env == ("A=1", "C==", "D=")


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.swapcase, str.title])
def test_keys_in_any_case(spell: Any) -> None:
    inner = {"Env": ["A=1"], "Entrypoint": ["e"], "Cmd": ["c"], "WorkingDir": "/w", "User": "7", "StopSignal": "INT"}
    written = {spell(key): value for key, value in (inner | {"Volumes": {"/v": None}}).items()}
    found = parse_config(json.dumps({spell("config"): written, spell("rootfs"): {spell("diff_ids"): [D]}}).encode())
    assert found == ImageConfig(("A=1",), ("e",), ("c",), "/w", "7", "INT", ("/v",), (D,))


def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    assert parse_config(b'{"config": {"User": "0", "user": "1000"}}').user == "1000"


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("signal", ["SIGTERM", "TERM", "15", "SIGRTMIN+1", "rtmax-3"])
def test_signals_in_any_case(signal: str, spell: Any) -> None:
    assert parse_config(of({"StopSignal": spell(signal)})).stop_signal == signal.upper()


@pytest.mark.parametrize("signal", ["sig term", "; rm", "SIG" + "X" * 50, "-9"])
def test_an_odd_signal_counts_as_none(signal: str) -> None:
    assert parse_config(of({"StopSignal": signal})).stop_signal == ""
