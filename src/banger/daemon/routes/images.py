"""`/v1/images` and `/v1/kernels`: what VMs are made from."""

from __future__ import annotations

from http import HTTPMethod

from banger.api.errors import ErrorCode
from banger.api.models import BuildImage, Image, Kernel
from banger.daemon.routes.endpoint import Call, Endpoint, acts, obeys, reads
from banger.daemon.services import ImageService


def image_endpoints(images: ImageService) -> tuple[Endpoint, ...]:
    """The rows that `images` serves."""
    return (
        reads("/v1/images", "List all images", list[Image], lambda _: images.list()),
        obeys(
            HTTPMethod.POST,
            "/v1/images/build",
            "Build an image from a recipe",
            BuildImage,
            lambda _, body: images.build(body),
            (ErrorCode.INVALID_NAME, ErrorCode.NAME_TAKEN, ErrorCode.UNKNOWN_IMAGE),
        ),
        reads(
            "/v1/images/{image}",
            "Show an image",
            Image,
            lambda call: images.show(_image(call)),
            (ErrorCode.UNKNOWN_IMAGE,),
        ),
        acts(
            HTTPMethod.DELETE,
            "/v1/images/{image}",
            "Delete an image that no VM uses",
            lambda call: images.delete(_image(call)),
            (ErrorCode.UNKNOWN_IMAGE, ErrorCode.IMAGE_IN_USE),
        ),
        reads("/v1/kernels", "List all kernels", list[Kernel], lambda _: images.kernels()),
        reads(
            "/v1/kernels/{kernel}",
            "Show a kernel",
            Kernel,
            lambda call: images.kernel(call.path["kernel"]),
            (ErrorCode.UNKNOWN_KERNEL,),
        ),
    )


def _image(call: Call) -> str:
    return call.path["image"]
