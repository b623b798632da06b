"""ImageService: a method for each RPC that is built, by the RPC's own name."""

from typing import Any

from adapters.cri import info, lookup, views
from adapters.cri.lists import Lists
from adapters.cri.options import Options
from adapters.cri.port import Api
from domain import commands as c
from domain.records import Cause
from proto import api_pb2 as pb


class ImageService:
    def __init__(self, api: Api, options: Options, lists: Lists) -> None:
        self._api = api
        self._normalise = options.normalise
        self._translate = options.translator
        self._lists = lists
        self._pins = options.pins

    async def ListImages(self, request: Any, cause: Cause) -> Any:
        return self._lists.images(request.filter)

    async def ImageStatus(self, request: Any, cause: Cause) -> Any:
        """A missing image is no error: the reply has none."""
        node = self._api.node
        found = lookup.image(node, request.image.image, self._normalise)
        if found is None or found.held is None:
            return pb.ImageStatusResponse()
        return pb.ImageStatusResponse(
            image=views.image(found.held, node.references(found.held.image_id), self._pins),
            info=info.image(node, found.held) if request.verbose else {},
        )

    async def PullImage(self, request: Any, cause: Cause) -> Any:
        command, credentials = self._translate.pull_image(request, cause.socket)
        return pb.PullImageResponse(image_ref=await self._api.submit(command, cause, credentials))

    async def RemoveImage(self, request: Any, cause: Cause) -> Any:
        image = self._translate.image(request.image.image, self._api.node)
        await self._api.submit(c.RemoveImage(image), cause)
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, request: Any, cause: Cause) -> Any:
        """Images and writable layers lie on one file system."""
        usage = await self._api.image_usage()
        shown = pb.FilesystemUsage(
            timestamp=usage.at_ns or cause.arrived_ns,
            fs_id=pb.FilesystemIdentifier(mountpoint=usage.mountpoint),
            used_bytes=pb.UInt64Value(value=usage.bytes),
            inodes_used=pb.UInt64Value(value=usage.inodes),
        )
        return pb.ImageFsInfoResponse(image_filesystems=[shown], container_filesystems=[shown])
