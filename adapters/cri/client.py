"""A client for our own commands and tests: the stubs of both services on one channel."""

import grpc

from adapters.cri.calls import MESSAGE_MAX
from adapters.cri.translate import LOAD
from domain.errors import NotReady, PullFailed
from proto import api_pb2 as pb
from proto.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    ("grpc.default_authority", "localhost"),
)


def connect(socket: str) -> tuple[RuntimeServiceStub, ImageServiceStub]:
    """Stubs for a socket's path. Connects with the first call; the channel goes when both stubs do."""
    channel = grpc.insecure_channel(f"unix:{socket}", options=OPTIONS)
    return RuntimeServiceStub(channel), ImageServiceStub(channel)


def load(socket: str, source: str, reference: str) -> str:
    """Has the daemon take an image from a file that it can read (`oci:PATH[:TAG]`, `docker-archive:PATH[:REF]`).

    Returns the image id. Raises NotReady where no daemon answers, PullFailed with the daemon's words.
    """
    _, images = connect(socket)
    spec = pb.ImageSpec(image=reference, annotations={LOAD: source})
    try:
        return str(images.PullImage(pb.PullImageRequest(image=spec)).image_ref)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise NotReady(f"cannot load {reference}: no daemon answers on {socket}") from None
        raise PullFailed(error.details()) from None
