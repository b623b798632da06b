"""What a plugin answers: results of versions 0.3.0 to 1.1.0, and errors. Pure; everything here may be hostile."""

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.network.conf import BadConfig, json_object

INTERFACE = "eth0"
RESULT_MAX = 64 * 1024
IPS_MAX = 32
PREFERENCES = ("cni", "ipv4", "ipv6")


class BadResult(ValueError):
    """A plugin's answer that cannot be used; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class Attached:
    """`ips`: eth0's, without prefix length, the preferred one first. `result`: the last plugin's, JSON."""

    ips: tuple[str, ...]
    result: str


def parse(out: bytes) -> dict[str, Any]:
    """Raises BadResult."""
    if not out.strip():
        raise BadResult("it answered nothing")
    try:
        return json_object(out)
    except BadConfig as error:
        raise BadResult(f"its answer cannot be used: {error}") from None


def in_version(result: Mapping[str, Any], version: str) -> dict[str, Any]:
    """A result as plugins of a version read it: before 1.0.0 each address says its family."""
    old = version.startswith("0.")
    changed = dict(result, cniVersion=version)
    ips = result.get("ips")
    if isinstance(ips, list):
        changed["ips"] = [_ip_in_version(ip, old) if isinstance(ip, dict) else ip for ip in ips]
    return changed


def _ip_in_version(ip: Mapping[str, Any], old: bool) -> dict[str, Any]:
    plain = {key: value for key, value in ip.items() if key != "version"}
    return {"version": "6" if ":" in str(ip.get("address", "")) else "4", **plain} if old else plain


def without_hosts_addresses(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result without the hardware addresses (`mac`, optional) of the interfaces that are not inside a pod."""
    interfaces = result.get("interfaces")
    if not isinstance(interfaces, list):
        return dict(result)
    return dict(result, interfaces=[_without_mac(each) for each in interfaces])


def _without_mac(interface: Any) -> Any:
    if not isinstance(interface, dict) or interface.get("sandbox"):
        return interface
    return {key: value for key, value in interface.items() if key != "mac"}


def attached(result: Mapping[str, Any], preference: str) -> Attached:
    """Raises BadResult where the pod's eth0 got no address, or one that is none."""
    text = json.dumps(result, separators=(",", ":"))
    if len(text) > RESULT_MAX:
        raise BadResult(f"the result has {len(text)} bytes, {RESULT_MAX} at most")
    return Attached(preferred(addresses(result), preference), text)


def addresses(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses of the pod's eth0 in the plugins' order."""
    ips, interfaces = result.get("ips") or [], result.get("interfaces") or []
    if not isinstance(ips, list) or not isinstance(interfaces, list) or len(ips) > IPS_MAX:
        raise BadResult("ips or interfaces of the result is not a short list")
    found = [_address(ip) for ip in ips if _is_the_pods(ip, interfaces)]
    if not found:
        raise BadResult(f"the result has no IP address for {INTERFACE}")
    return tuple(dict.fromkeys(found))


def _is_the_pods(ip: object, interfaces: Sequence[object]) -> bool:
    """An address without an interface is the one asked for; on the host's side there is no `sandbox`."""
    if not isinstance(ip, dict):
        raise BadResult("an entry of ips is not an object")
    index = ip.get("interface")
    if index is None:
        return True
    if type(index) is not int or not 0 <= index < len(interfaces):
        raise BadResult(f"an address names interface {str(index)[:20]}, of {len(interfaces)}")
    interface = interfaces[index]
    if not isinstance(interface, dict):
        raise BadResult("an entry of interfaces is not an object")
    return interface.get("name") == INTERFACE and bool(interface.get("sandbox"))


def _address(ip: Mapping[str, Any]) -> str:
    text = ip.get("address")
    try:
        if not isinstance(text, str) or "%" in text:
            raise ValueError
        found = ipaddress.ip_interface(text).ip
    except ValueError:
        raise BadResult(f"{str(text)[:80]!r} is not an address") from None
    if found.is_unspecified or found.is_multicast or found.is_loopback:
        raise BadResult(f"{found} cannot be a pod's address")
    return str(found)


def preferred(ips: tuple[str, ...], preference: str) -> tuple[str, ...]:
    """`ipv4`, `ipv6`: that family first, else the plugins' order as it is."""
    if preference not in ("ipv4", "ipv6"):
        return ips
    return tuple(sorted(ips, key=lambda ip: (":" in ip) != (preference == "ipv6")))


def error_of(out: bytes) -> str:
    """`msg; details (code N)` of a plugin's error; empty where it gave none."""
    try:
        found = json_object(out)
    except BadConfig:
        return ""
    msg, details, code = found.get("msg"), found.get("details"), found.get("code")
    words = [word.strip() for word in (msg, details) if isinstance(word, str) and word.strip()]
    if not words:
        return ""
    return "; ".join(words) + (f" (code {code})" if type(code) is int else "")
