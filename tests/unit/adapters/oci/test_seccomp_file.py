"""Profiles of files: what is taken, and what is refused with its place rather than read as something laxer."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adapters.oci import default_seccomp, seccomp, seccomp_file
from adapters.oci.capabilities import BY_NUMBER
from domain.errors import InvalidRequest, Unsupported

DEBIANS = "/usr/share/containers/seccomp.json"
BLOCKED = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}


def document(*rules: Any, **more: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules), **more}


def rule(**more: Any) -> dict[str, Any]:
    return {**BLOCKED, **more}


def argument(**more: Any) -> dict[str, Any]:
    return rule(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **more}])


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name != key}


def parsed(value: Any) -> seccomp.Profile:
    return seccomp_file.parse("/p.json", value if isinstance(value, bytes) else json.dumps(value).encode())


def test_keys_are_folded_as_go_does_it() -> None:
    shouted = {"DEFAULTACTION": "SCMP_ACT_ALLOW", "Syscalls": [{"Names": ["mkdir"], "aCtIoN": "SCMP_ACT_KILL"}]}
    assert parsed(shouted).rules == (seccomp.Rule(("mkdir",), "SCMP_ACT_KILL"),)
    odd = b'{"defaultAction": "SCMP_ACT_ALLOW", "\xc5\xbfyscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_LOG"}]}'
    assert len(parsed(odd).rules) == 1, "U+017F folds to s, also in Go"


def test_null_is_as_good_as_absent() -> None:
    given = document(rule(args=None, includes=None, errnoRet=None, name=None), flags=None, archMap=None)
    assert parsed(given).rules == (seccomp.Rule(("mkdir",), "SCMP_ACT_ERRNO"),)


def test_the_whole_of_both_forms() -> None:
    full = document(
        {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errno": "EACCES", "errnoRet": 13, "comment": "why"},
        rule(args=[{"index": 5, "value": 2**64 - 1, "valueTwo": 6, "op": "SCMP_CMP_MASKED_EQ"}]),
        rule(includes={"arches": ["amd64", "386"], "caps": ["CAP_KILL"], "minKernel": "4.8"}, excludes={}),
        defaultErrnoRet=38,
        defaultErrno="ENOSYS",
        flags=["SECCOMP_FILTER_FLAG_LOG"],
        archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    )
    read = parsed({**full, "defaultAction": "SCMP_ACT_ERRNO"})
    assert (read.default_errno, read.flags) == (38, ("SECCOMP_FILTER_FLAG_LOG",))
    assert read.arch_map == (("SCMP_ARCH_X86_64", ("SCMP_ARCH_X86",)),)
    assert read.rules[0] == seccomp.Rule(("mkdir",), "SCMP_ACT_ERRNO", 13)
    assert read.rules[1].arguments == (seccomp.Argument(5, "SCMP_CMP_MASKED_EQ", 2**64 - 1, 6),)
    assert read.rules[2].includes == seccomp.Condition(("amd64", "x86"), ("CAP_KILL",), (4, 8))


REFUSED: dict[str, tuple[Any, str]] = {
    "a list": ([], "[] where an object belongs"),
    "no default": ({"syscalls": []}, "defaultAction: is missing"),
    "odd default": ({"defaultAction": "ALLOW"}, 'defaultAction: "ALLOW" is not known; known are SCMP_ACT_ALLOW'),
    "misspelled": ({"defaultAction": "SCMP_ACT_ALLOW", "syscals": []}, 'unknown key "syscals"'),
    "rules twice": (b'{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[],"Syscalls":[]}', "syscalls stands there twice"),
    "an object of rules": ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": BLOCKED}, "syscalls: {"),
    "a text of rules": ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": "mkdir"}, 'syscalls: "mkdir" where a list'),
    "a name as rule": (document("mkdir"), 'syscalls[0]: "mkdir" where an object belongs'),
    "null as rule": (document(BLOCKED, None), "syscalls[1]: null where an object belongs"),
    "text of names": (document(rule(names="mkdir")), 'syscalls[0].names: "mkdir" where a list belongs'),
    "no names": (document({"action": "SCMP_ACT_ERRNO"}), "syscalls[0].names: a rule needs system calls"),
    "empty names": (document(rule(names=[])), "syscalls[0].names: a rule needs system calls"),
    "empty name": (document(rule(names=[""])), 'syscalls[0].names: "" is not a system call'),
    "number as name": (document(rule(names=[83])), "syscalls[0].names: 83 is not a system call"),
    "name with a space": (document(rule(names=["mkdir "])), "is not a system call's name"),
    "two spellings": (document(rule(name="mkdirat")), "syscalls[0].name: stands beside names"),
    "list as name": (document({"name": ["mkdir"], "action": "SCMP_ACT_LOG"}), "syscalls[0].name: "),
    "no action": (document({"names": ["mkdir"]}), "syscalls[0].action: is missing"),
    "odd action": (document(rule(action="scmp_act_errno")), 'syscalls[0].action: "scmp_act_errno" is not known'),
    "list as action": (document(rule(action=["SCMP_ACT_ERRNO"])), "syscalls[0].action: ["),
    "unknown key of a rule": (document(rule(arguments=[])), 'syscalls[0]: unknown key "arguments"'),
    "object as args": (document(rule(args={"index": 0})), "syscalls[0].args: {"),
    "number as arg": (document(rule(args=[1])), "syscalls[0].args[0]: 1 where an object belongs"),
    "no value": (document(rule(args=[{"index": 0, "op": "SCMP_CMP_EQ"}])), "syscalls[0].args[0].value: is missing"),
    "no op": (document(rule(args=[{"index": 0, "value": 1}])), "syscalls[0].args[0].op: is missing"),
    "no index": (document(rule(args=[without(argument()["args"][0], "index")])), "args[0].index: is missing"),
    "odd op": (document(argument(op="==")), 'syscalls[0].args[0].op: "==" is not known'),
    "seventh argument": (document(argument(index=6)), "index: 6 is not a whole number from 0 to 5"),
    "negative": (document(argument(value=-1)), "value: -1 is not a whole number from 0 to 18446744073709551615"),
    "too large": (document(argument(value=2**64)), "is not a whole number"),
    "a fraction": (document(argument(value=1.0)), "value: 1.0 is not a whole number"),
    "a text as number": (document(argument(value="1")), 'value: "1" is not a whole number'),
    "true as number": (document(argument(index=True)), "index: true is not a whole number"),
    "never holds": (document(argument(op="SCMP_CMP_MASKED_EQ", value=1, valueTwo=2)), "can never hold"),
    "not a number": (b'{"defaultAction": NaN}', "is not JSON: NaN"),
    "includes as list": (document(rule(includes=["CAP_KILL"])), "syscalls[0].includes: ["),
    "caps as text": (document(rule(includes={"caps": "CAP_KILL"})), 'includes.caps: "CAP_KILL" where a list belongs'),
    "unknown cap": (document(rule(includes={"caps": ["KILL"]})), 'includes.caps[0]: "KILL" is not known'),
    "unknown arch": (document(rule(includes={"arches": ["x86_64"]})), 'includes.arches[0]: "x86_64" is not known'),
    "unknown condition": (document(rule(includes={"cap": []})), 'includes: unknown key "cap"'),
    "odd kernel": (document(rule(includes={"minKernel": 4.8})), "includes.minKernel: 4.8 is not a kernel's version"),
    "odd architecture": (document(architectures=["amd64"]), 'architectures[0]: "amd64" is not known'),
    "text of architectures": (document(architectures="SCMP_ARCH_X86"), "architectures: "),
    "both forms": (
        document(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "SCMP_ARCH_X86"}]),
        "archMap: stands beside architectures",
    ),
    "map of nothing": (document(archMap=[{}]), "archMap[0].architecture: is missing"),
    "map twice": (document(archMap=[{"architecture": "SCMP_ARCH_X86"}] * 2), "archMap[1]: SCMP_ARCH_X86 stands"),
    "odd flag": (document(flags=["LOG"]), 'flags[0]: "LOG" is not known'),
    "text of an errno": (document(rule(errnoRet="EPERM")), "syscalls[0].errnoRet: "),
    "errno too large": (document(rule(errnoRet=4096)), "errnoRet: 4096 is not a whole number from 0 to 4095"),
    "no errno": (document(rule(errno="NOPE")), 'syscalls[0].errno: "NOPE" is not an error'),
    "errnos differ": (document(rule(errno="EPERM", errnoRet=2)), "errno: EPERM is 1, but errnoRet says 2"),
    "no JSON": (b"{", "is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "is not JSON"),
    "deep": (b"[" * 100_000, "is not JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_file_and_place(name: str) -> None:
    given, expected = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        parsed(given)
    assert caught.value.text.startswith("seccomp profile /p.json")
    assert expected in caught.value.text
    assert len(caught.value.text) < 2000


@pytest.mark.parametrize(
    "given",
    [
        document(rule(action="SCMP_ACT_NOTIFY")),
        document(defaultAction="SCMP_ACT_NOTIFY"),
        document(listenerPath="/run/agent.sock"),
        document(listenerMetadata="x"),
    ],
)
def test_a_profile_that_wants_somebody_to_decide_is_refused(given: Any) -> None:
    with pytest.raises(Unsupported, match=r"^seccomp profile /p\.json: .*not supported"):
        parsed(given)


def test_two_conditions_on_one_argument_may_only_refuse() -> None:
    both = [{"index": 0, "value": value, "op": "SCMP_CMP_NE"} for value in (38, 40)]
    allowing = {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": both}
    parsed(document({**allowing, "action": "SCMP_ACT_ERRNO"}))
    with pytest.raises(InvalidRequest, match=r"syscalls\[0\]\.args: two conditions on one argument"):
        parsed({**document(allowing), "defaultAction": "SCMP_ACT_ERRNO"})


def test_a_stricter_rule_needs_a_name_that_is_known() -> None:
    known = frozenset({"mkdir"}).__contains__
    seccomp_file.require_known(parsed(document(BLOCKED)), known)
    lax = {"names": ["mkdri"], "action": "SCMP_ACT_ALLOW"}
    seccomp_file.require_known(parsed({**document(lax), "defaultAction": "SCMP_ACT_ERRNO"}), known)
    with pytest.raises(InvalidRequest, match=r"syscalls\[1\]\.names: 'mkdri' is no system call"):
        seccomp_file.require_known(parsed(document(BLOCKED, rule(names=["mkdri"]))), known)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "there").write_text(json.dumps(document(BLOCKED)))
    assert seccomp_file.load(str(tmp_path / "there")).rules
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * (seccomp_file.PROFILE_MAX + 1))
    for name, why in (("fifo", "not a regular file"), ("large", "larger than"), ("none", "No such file"), ("a\0b", "")):
        with pytest.raises(InvalidRequest, match=f"^seccomp profile .*{why}"):
            seccomp_file.load(str(tmp_path / name))
    with pytest.raises(InvalidRequest):
        seccomp_file.load(str(tmp_path))


# --- what conversion refuses or settles ------------------------------------------------------------------------------


def converted(*rules: Any, default: str = "SCMP_ACT_ERRNO") -> dict[str, Any]:
    return seccomp.convert(parsed({"defaultAction": default, "syscalls": list(rules)}), (), "x86_64")


def test_a_profile_that_starts_nothing_says_so() -> None:
    for rules in ((), ({"names": ["read"], "action": "SCMP_ACT_ALLOW"},)):
        with pytest.raises(InvalidRequest, match="permits no execve: no program can be started"):
            converted(*rules)
    converted({"names": ["execve"], "action": "SCMP_ACT_LOG"})


def test_of_two_rules_without_conditions_the_stricter_counts() -> None:
    allowed = {"names": ["execve", "mkdir"], "action": "SCMP_ACT_ALLOW"}
    assert converted(allowed, BLOCKED)["syscalls"][0]["names"] == ["execve"]
    assert converted(BLOCKED, allowed)["syscalls"][0]["names"] == ["execve"]


def test_a_rule_that_says_the_default_is_left_out_like_runc_does() -> None:
    allowed = {"names": ["execve"], "action": "SCMP_ACT_ALLOW"}
    for errno, kept in ((None, 1), (1, 1), (0, 2), (38, 2)):
        assert len(converted(allowed, {**BLOCKED, "errnoRet": errno})["syscalls"]) == kept


def test_a_condition_that_a_laxer_rule_would_swallow_is_refused() -> None:
    allowed = {"names": ["execve", "socket"], "action": "SCMP_ACT_ALLOW"}
    family = {"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}
    denied = {"names": ["socket"], "action": "SCMP_ACT_KILL", "args": [family]}
    with pytest.raises(InvalidRequest, match="rules for socket contradict each other: SCMP_ACT_ALLOW and SCMP_ACT_KI"):
        converted(allowed, denied)
    other = {**allowed, "args": [{**family, "op": "SCMP_CMP_NE"}]}
    assert len(converted(other, denied, {"names": ["execve"], "action": "SCMP_ACT_ALLOW"})["syscalls"]) == 3


@pytest.mark.skipif(not os.path.exists(DEBIANS), reason="golang-github-containers-common is not installed")
def test_debians_profile_is_taken() -> None:
    profile = seccomp_file.load(DEBIANS)
    seccomp_file.require_known(profile, default_seccomp.NAMES.__contains__)
    some, all_ = (seccomp.convert(profile, caps, "x86_64") for caps in ((), BY_NUMBER))
    allowed = [
        {name for rule in out["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
        for out in (some, all_)
    ]
    assert "bpf" not in allowed[0] and "bpf" in allowed[1] and "read" in allowed[0]
    assert some["architectures"][0] == "SCMP_ARCH_X86_64" and some["defaultErrnoRet"] == 38
    assert not any("includes" in rule or "comment" in rule for rule in some["syscalls"])
