"""RuntimeService: a method for each RPC that is built, by its own name. Status and List calls read memory only."""

from collections.abc import Mapping
from typing import Any

from adapters.cri import execs, info, lookup, views
from adapters.cri.lists import Lists
from adapters.cri.options import CRI_VERSION, RUNTIME_NAME, Options
from adapters.cri.port import Api, Condition
from adapters.cri.status import bounded
from domain import commands as c
from domain import container as containers
from domain import errors
from domain import events as e
from domain import sandbox as sandboxes
from domain.records import Cause
from proto import api_pb2 as pb


class RuntimeService:
    def __init__(self, api: Api, options: Options, lists: Lists) -> None:
        self._api = api
        self._options = options
        self._translate = options.translator
        self._lists = lists

    # --- node --------------------------------------------------------------------------------------------------------

    async def Version(self, request: Any, cause: Cause) -> Any:
        return pb.VersionResponse(
            version=CRI_VERSION,
            runtime_name=RUNTIME_NAME,
            runtime_version=self._options.version,
            runtime_api_version="v1",
        )

    async def Status(self, request: Any, cause: Cause) -> Any:
        health = self._api.health()
        conditions = [_condition("RuntimeReady", health.runtime), _condition("NetworkReady", health.network)]
        # User namespaces need id-mapped mounts as well: false until both are there.
        features = pb.RuntimeHandlerFeatures(recursive_read_only_mounts=self._options.recursive_read_only)
        handlers = dict.fromkeys(("", *self._options.handlers))
        return pb.StatusResponse(
            status=pb.RuntimeStatus(conditions=conditions),
            runtime_handlers=[pb.RuntimeHandler(name=name, features=features) for name in handlers],
            features=pb.RuntimeFeatures(supplemental_groups_policy=True, mount_options=True),
            info=self._info(health.info) if request.verbose else {},
        )

    def _info(self, told: Mapping[str, Any]) -> Mapping[str, str]:
        return info.daemon(self._api.node, told, self._api.head(), self._options.sandbox_image)

    async def RuntimeConfig(self, request: Any, cause: Cause) -> Any:
        driver = pb.SYSTEMD if self._options.systemd else pb.CGROUPFS
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def UpdateRuntimeConfig(self, request: Any, cause: Cause) -> Any:
        """The pod CIDR is the CNI configuration's business."""
        return pb.UpdateRuntimeConfigResponse()

    # --- sandboxes ---------------------------------------------------------------------------------------------------

    async def RunPodSandbox(self, request: Any, cause: Cause) -> Any:
        command, secrets = self._translate.run_sandbox(request)
        return pb.RunPodSandboxResponse(pod_sandbox_id=await self._api.submit(command, cause, secrets))

    async def StopPodSandbox(self, request: Any, cause: Cause) -> Any:
        found = lookup.sandbox_id(self._api.node, request.pod_sandbox_id)
        if found is not None:
            await self._api.submit(c.StopSandbox(found), cause)
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: Any, cause: Cause) -> Any:
        found = lookup.sandbox_id(self._api.node, request.pod_sandbox_id)
        if found is not None:
            await self._api.submit(c.RemoveSandbox(found), cause)
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(self, request: Any, cause: Cause) -> Any:
        node, text = self._api.node, request.pod_sandbox_id
        name = lookup.known("sandbox", text, lookup.sandbox_id(node, text), "show")
        known, held = node.sandboxes.get(name), node.quarantined.get(e.sandbox_key(name))
        if known is None or sandboxes.view(known) is None:
            raise _not_shown(e.sandbox_key(name), held)
        return pb.PodSandboxStatusResponse(
            status=views.sandbox_status(known, self._api.secrets, held),
            info=info.sandbox(node, known, await self._api.netns(name)) if request.verbose else {},
        )

    async def ListPodSandbox(self, request: Any, cause: Cause) -> Any:
        return self._lists.sandboxes(request.filter)

    # --- containers --------------------------------------------------------------------------------------------------

    async def CreateContainer(self, request: Any, cause: Cause) -> Any:
        command, secrets = self._translate.create_container(request, self._api.node)
        return pb.CreateContainerResponse(container_id=await self._api.submit(command, cause, secrets))

    async def StartContainer(self, request: Any, cause: Cause) -> Any:
        found = lookup.container_id(self._api.node, request.container_id)
        await self._api.submit(c.StartContainer(lookup.known("container", request.container_id, found, "start")), cause)
        return pb.StartContainerResponse()

    async def StopContainer(self, request: Any, cause: Cause) -> Any:
        found = lookup.container_id(self._api.node, request.container_id)
        command = self._translate.stop_container(found or "", request.timeout)
        if found is not None:
            await self._api.submit(command, cause)
        return pb.StopContainerResponse()

    async def RemoveContainer(self, request: Any, cause: Cause) -> Any:
        found = lookup.container_id(self._api.node, request.container_id)
        if found is not None:
            await self._api.submit(c.RemoveContainer(found), cause)
        return pb.RemoveContainerResponse()

    async def ContainerStatus(self, request: Any, cause: Cause) -> Any:
        node, text = self._api.node, request.container_id
        name = lookup.known("container", text, lookup.container_id(node, text), "show")
        known, held = node.containers.get(name), node.quarantined.get(e.container_key(name))
        if known is None or containers.view(known) is None:
            raise _not_shown(e.container_key(name), held)
        return pb.ContainerStatusResponse(
            status=views.container_status(known, self._api.secrets, held),
            info=info.container(node, known) if request.verbose else {},
        )

    async def ListContainers(self, request: Any, cause: Cause) -> Any:
        return self._lists.containers(request.filter)

    async def ContainerStats(self, request: Any, cause: Cause) -> Any:
        node, text = self._api.node, request.container_id
        name = lookup.known("container", text, lookup.container_id(node, text), "measure")
        known = node.containers.get(name)
        if known is None or containers.view(known) is None:
            raise _not_shown(e.container_key(name), node.quarantined.get(e.container_key(name)))
        used = await self._api.usage([name])
        return pb.ContainerStatsResponse(stats=views.container_stats(known, used.get(name), self._api.secrets))

    async def ListContainerStats(self, request: Any, cause: Cause) -> Any:
        asked = self._lists.living(request.filter)
        used = await self._api.usage([known.id for known in asked])
        stats = [views.container_stats(known, used[known.id], self._api.secrets) for known in asked if known.id in used]
        return pb.ListContainerStatsResponse(stats=stats)

    async def ExecSync(self, request: Any, cause: Cause) -> Any:
        """The answer waits for the command; a caller that leaves ends it."""
        found = lookup.container_id(self._api.node, request.container_id)
        name = lookup.known("container", request.container_id, found, "exec in")
        argv, timeout_s = execs.asked(request)
        return execs.reply(await self._api.exec_sync(name, argv, timeout_s))

    async def ReopenContainerLog(self, request: Any, cause: Cause) -> Any:
        found = lookup.container_id(self._api.node, request.container_id)
        await self._api.reopen_log(lookup.known("container", request.container_id, found, "reopen the log of"))
        return pb.ReopenContainerLogResponse()


def _condition(kind: str, known: Condition) -> Any:
    return pb.RuntimeCondition(type=kind, status=known.ok, reason=known.reason, message=bounded(known.message))


def _not_shown(key: str, held: Any) -> errors.DaybookError:
    """Known, but with nothing to show: its creation is not over, failed, or cannot be read."""
    kind, name = e.split_key(key)
    if held is not None:
        return errors.Quarantined(f"cannot show {views.quarantine_text(key, held)}")
    return errors.NotFound(f"cannot show {kind} {name}: it was never created")
