"""The verbose part of the status calls: one JSON text under the key `info`, for people and `crictl inspect`.

Never a value that the log does not have either: of what is held back, names and lengths at most.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from domain import events as e
from domain.container import Container
from domain.image import Image, PulledImage
from domain.lifecycle import ContainerState
from domain.node import Node
from domain.records import Digest, Head, Process
from domain.sandbox import Sandbox

LIVES = (ContainerState.RUNNING, ContainerState.STOPPING)


def container(node: Node, known: Container) -> Mapping[str, str]:
    sandbox = node.sandboxes.get(known.sandbox_id)
    config = known.config
    return _text(
        {
            "sandboxID": known.sandbox_id,
            "pid": known.init.pid if known.init else 0,
            "init": _process(known.init),
            "monitor": _process(known.monitor),
            "monitorLostAt": known.monitor_lost_at,
            "state": known.state,
            "version": node.versions.get(e.container_key(known.id), 0),
            "requestHash": known.request_hash,
            "runtimeHandler": sandbox.config.runtime_handler if sandbox else "",
            "runtime": asdict(known.runtime) if known.runtime else None,
            "imageId": known.image_id,
            "evidence": asdict(known.evidence),
            "oomKills": known.oom_kills - known.oom_kills_at_start,
            "stop": asdict(known.stop) if known.stop else None,
            "error": known.error,
            "text": known.text,
            "envs": _held_back(config.envs),
            "commandLength": len(config.command),
            "argsLength": len(config.args),
            "hiddenAnnotations": _held_back(config.hidden),
            "adjusted": [change.name for change in known.adjusted],
            "privileged": config.security.privileged,
            "tty": config.tty,
        }
    )


def sandbox(node: Node, known: Sandbox, netns: str) -> Mapping[str, str]:
    """`pid`, `netNamespaceClosed` and `runtimeSpec` as containerd has them: agents find a pod's network by these."""
    network = [{"type": "network", **({"path": netns} if netns else {})}] if known.own_network else []
    return _text(
        {
            "pid": _inside(node, known),
            "netns": netns,
            "netNamespaceClosed": known.own_network and not netns,
            "runtimeSpec": {"linux": {"namespaces": network}},
            "infra": _process(known.infra),
            "state": known.state,
            "version": node.versions.get(e.sandbox_key(known.id), 0),
            "requestHash": known.request_hash,
            "bootId": known.boot_id,
            "runtimeHandler": known.config.runtime_handler,
            "hostname": known.config.hostname,
            "cgroupParent": known.config.cgroup_parent,
            "logDirectory": known.config.log_directory,
            "ips": known.ips,
            "cniResult": _parsed(known.network),
            "networkHeld": known.held,
            "networkLeak": known.leak,
            "containers": [k.id for k in node.of_sandbox(known.id)],
            "hiddenAnnotations": _held_back(known.config.hidden),
            "error": known.error,
            "text": known.text,
        }
    )


def _inside(node: Node, known: Sandbox) -> int:
    """A process in the pod's network: the infra process, or else one of its oldest running container; 0: none."""
    inits = [k.init for k in node.of_sandbox(known.id) if k.state in LIVES]
    return next((process.pid for process in (known.infra, *inits) if process), 0)


def image(node: Node, held: PulledImage) -> Mapping[str, str]:
    references: list[Image] = node.references(held.image_id)
    return _text(
        {
            "layers": held.layers,
            "user": held.user,
            "stopSignal": held.stop_signal,
            "references": {
                i.reference: {
                    "state": i.state,
                    "digest": i.held.digest if i.held else "",
                    "version": node.versions.get(e.image_key(i.reference), 0),
                    "source": i.source,
                }
                for i in references
            },
            "usedBy": node.image_users(held.image_id),
        }
    )


def daemon(node: Node, info: Mapping[str, Any], head: Head, sandbox_image: str) -> Mapping[str, str]:
    """Everything the daemon tells of itself, and how far its log is: a journal elsewhere can prove more by it.

    `config` is containerd's key: kubeadm looks there for the pause image and complains where it finds none.
    """
    told = _text(
        {
            **info,
            "logHead": {"sequence": head.seq, "hash": head.hash.hex()},
            "quarantined": {key: asdict(held) for key, held in sorted(node.quarantined.items())},
            "sandboxes": len(node.sandboxes),
            "containers": len(node.containers),
        }
    )
    return {**told, "config": json.dumps({"sandboxImage": sandbox_image})}


def _text(of: Mapping[str, Any]) -> Mapping[str, str]:
    return {"info": json.dumps(of, default=str)}


def _process(known: Process | None) -> Mapping[str, Any] | None:
    return asdict(known) if known else None


def _held_back(values: tuple[Digest, ...]) -> list[Mapping[str, Any]]:
    return [{"name": value.name, "length": value.length} for value in values]


def _parsed(text: str) -> Any:
    """The CNI result is JSON that plugins wrote; what is not, is shown as text."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
