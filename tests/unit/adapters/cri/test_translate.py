"""Requests -> commands and secrets."""

import pytest

from adapters.cri.translate import GRACE_MAX_S, LOAD, Translator
from domain import commands as c
from domain import events as e
from domain.config import ContainerConfig, ContainerSecrets, SandboxConfig, SandboxSecrets
from domain.errors import InvalidRequest, NotFound, Unsupported
from domain.image import PulledImage
from domain.node import Node
from domain.records import Now
from proto import api_pb2 as pb
from tests.support.cri_requests import IMAGE, create, ids, options, run, sandbox_config

NOW = Now(10**18, 1, "boot")
ID = "sha256:" + "ab" * 32


def translator(**more: object) -> Translator:
    return options(**more).translator  # type: ignore[arg-type]


def node_with_sandbox() -> tuple[Node, str]:
    node = Node()
    command, _ = translator().run_sandbox(run())
    decision = node.decide(command, NOW)
    for key, event in decision.events:  # type: ignore[union-attr]
        node.apply(key, 1, event)
    return node, command.sandbox_id


def test_run_sandbox() -> None:
    command, secrets = translator(new_id=lambda: "f" * 64).run_sandbox(run())
    assert isinstance(command, c.RunSandbox)
    assert command.sandbox_id == "f" * 64
    assert isinstance(command.config, SandboxConfig)
    assert len(command.request_hash) == 32
    assert isinstance(secrets, SandboxSecrets)


def test_a_retry_has_the_same_hash_and_another_id() -> None:
    made = translator(new_id=ids())
    first, second, third = (made.run_sandbox(r)[0] for r in (run(), run(), run(hostname="other")))
    assert first.request_hash == second.request_hash != third.request_hash
    assert first.sandbox_id != second.sandbox_id


def test_the_handler_is_part_of_the_request() -> None:
    made = translator(handlers=("crun",))
    other = pb.RunPodSandboxRequest(config=sandbox_config(), runtime_handler="crun")
    assert made.run_sandbox(run())[0].request_hash != made.run_sandbox(other)[0].request_hash


def test_create_container() -> None:
    node, sandbox_id = node_with_sandbox()
    command, secrets = translator().create_container(create(sandbox_id[:7]), node)
    assert command.sandbox_id == sandbox_id
    assert command.image == ID
    assert isinstance(command.config, ContainerConfig)
    assert isinstance(secrets, ContainerSecrets)


def test_create_does_not_depend_on_the_repeated_sandbox_config() -> None:
    node, sandbox_id = node_with_sandbox()
    request = create(sandbox_id)
    plain = translator().create_container(request, node)[0].request_hash
    request.sandbox_config.CopyFrom(sandbox_config("whatever"))
    assert translator().create_container(request, node)[0].request_hash == plain


def test_the_check_sees_the_container_and_its_sandbox() -> None:
    node, sandbox_id = node_with_sandbox()
    seen = []

    def check(config: ContainerConfig, sandbox: SandboxConfig) -> None:
        seen.append((config.name, sandbox.name))
        raise Unsupported("no")

    with pytest.raises(Unsupported):
        translator(check=check).create_container(create(sandbox_id), node)
    assert seen == [("app", "pod")]


def test_refusals() -> None:
    node, sandbox_id = node_with_sandbox()
    with pytest.raises(InvalidRequest, match="config is missing"):
        translator().run_sandbox(pb.RunPodSandboxRequest())
    with pytest.raises(InvalidRequest, match="config is missing"):
        translator().create_container(pb.CreateContainerRequest(pod_sandbox_id=sandbox_id), node)
    with pytest.raises(InvalidRequest, match="sandbox id is empty"):
        translator().create_container(create(""), node)
    with pytest.raises(NotFound):
        translator().create_container(create("nowhere"), node)
    with pytest.raises(InvalidRequest, match="bytes, at most"):
        translator().run_sandbox(run(labels={"a": "x" * 3_000_000}))


def test_grace() -> None:
    assert translator().stop_container("a", 30) == c.StopContainer("a", 30)
    assert translator().stop_container("a", 2**63 - 1) == c.StopContainer("a", GRACE_MAX_S)
    assert GRACE_MAX_S * 10**9 < 2**62
    with pytest.raises(InvalidRequest, match="timeout -1 is negative"):
        translator().stop_container("a", -1)


def pull(image: str = "busybox:1.36", **more: object) -> object:
    return pb.PullImageRequest(image=pb.ImageSpec(image=image, **more))  # type: ignore[arg-type]


def test_pull() -> None:
    assert translator().pull_image(pull(), "kubelet") == (c.PullImage(IMAGE), None)


@pytest.mark.parametrize("source", ["oci:/srv/layout:v1", "oci:/srv/layout", "docker-archive:/srv/a.tar"])
def test_load_is_for_people(source: str) -> None:
    assert translator().pull_image(pull(annotations={LOAD: source}), "admin") == (c.PullImage(IMAGE, source), None)
    with pytest.raises(InvalidRequest, match="admin socket only"):
        translator().pull_image(pull(annotations={LOAD: source}), "kubelet")


@pytest.mark.parametrize("source", ["dir:/srv", "oci:relative", "docker://evil", "oci:/a\n", "/srv/layout"])
def test_load_from_elsewhere(source: str) -> None:
    with pytest.raises(InvalidRequest):
        translator().pull_image(pull(annotations={LOAD: source}), "admin")


def test_credentials_are_beside_the_command_and_known_in_it_by_their_hash() -> None:
    request = pull()
    request.auth.username, request.auth.password = "me", "hunter2"  # type: ignore[attr-defined]
    command, credentials = translator().pull_image(request, "kubelet")
    assert credentials is not None and credentials.password == "hunter2"
    assert command == c.PullImage(IMAGE, access=credentials.access) and credentials.access
    assert "hunter2" not in f"{command} {credentials}"


def test_a_file_needs_no_credentials() -> None:
    request = pull(annotations={LOAD: "oci:/srv/layout"})
    request.auth.username = "me"  # type: ignore[attr-defined]
    assert translator().pull_image(request, "admin") == (c.PullImage(IMAGE, "oci:/srv/layout"), None)


def test_a_registry_token_needs_the_configuration() -> None:
    request = pull()
    request.auth.registry_token = "hunter2"  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequest, match="allow_registry_token"):
        translator().pull_image(request, "kubelet")
    _, credentials = translator(allow_registry_token=True).pull_image(request, "kubelet")
    assert credentials is not None and credentials.registry_token == "hunter2"


def test_pull_refusals() -> None:
    with pytest.raises(InvalidRequest, match=r"image\.image is empty"):
        translator().pull_image(pb.PullImageRequest(), "kubelet")
    with pytest.raises(Unsupported, match="runtime handler 'kata'"):
        translator().pull_image(pull(runtime_handler="kata"), "kubelet")


def test_image_of_a_command() -> None:
    node = Node()
    made = translator()
    assert made.image("busybox", node) == "docker.io/library/busybox:latest"
    assert made.image("ab" * 32, node) == made.image(ID, node) == ID
    for version, command in enumerate((c.PullImage(IMAGE), c.RecordPulled(IMAGE, _pulled())), 1):
        for key, event in node.decide(command, NOW).events:  # type: ignore[union-attr]
            node.apply(key, version, event)
    assert made.image("ababab", node) == ID
    assert made.image("busybox:1.36", node) == IMAGE
    assert made.image(f"busybox@sha256:{'cd' * 32}", node) == IMAGE


def _pulled() -> PulledImage:
    return PulledImage(ID, "sha256:" + "cd" * 32, (), 1)


def test_a_short_target_is_recorded_in_full() -> None:
    node, sandbox_id = node_with_sandbox()
    made = ["a" * 64, "ab" * 32]
    for at, container_id in enumerate(made):
        event = e.ContainerCreateRequested(sandbox_id, "h", ID, IMAGE, 1, "", "TERM", ContainerConfig(f"c{at}"))
        node.apply(e.container_key(container_id), 1, event)

    def recorded(target: str) -> str:
        request = create(sandbox_id, "debugger")
        options = request.config.linux.security_context.namespace_options
        options.pid, options.target_id = pb.TARGET, target
        return translator().create_container(request, node)[0].config.namespaces.target_id

    assert [recorded(text) for text in ("abab", made[0], "f00d")] == [made[1], made[0], "f00d"]
    with pytest.raises(InvalidRequest, match="ambiguous"):
        recorded("a")
