"""Snapshots of containers: the client's side. What is captured, and what is not, is in `images.writable`."""

from __future__ import annotations

import contextlib
import os
import warnings
from typing import TYPE_CHECKING

from pytest_sealed import copying
from pytest_sealed.errors import ContainerNotStarted, LimitUnavailable, SealedWarning
from pytest_sealed.images.snapshot import check_name

if TYPE_CHECKING:
    from pytest_sealed.container import Container
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.snapshot import Snapshots
    from pytest_sealed.runtime.client import Session

__all__ = ["take_snapshot"]


def take_snapshot(container: Container, found: Image, session: Session, snapshots: Snapshots, name: str | None) -> str:
    """Make an image of a container's files; return its name. A running one is paused meanwhile, where that can be, with a warning."""
    if name is not None:
        name = check_name(snapshots.store, name)
    with contextlib.ExitStack() as stack:
        if container.status == "running":
            how = "its files are as after a power cut"
            try:
                container.pause()
                stack.callback(_go_on, container)
            except LimitUnavailable:   # an account without cgroups
                how = "its files are of different moments, since it can't be paused here"
            except ContainerNotStarted:
                how = "it ended just then"
            warnings.warn(SealedWarning(
                f"container {container.name!r} was running when its snapshot was taken: {how}, and what it had in memory only is lost\n"
                "  remedy: stop() it first; restart() lets it go on"), stacklevel=3)
        answer, (folder,) = session.request("writable", container=container.id)
        stack.callback(os.close, folder)
        user = found.config.user if container.spec.user is None else container.spec.user
        single = copying.owner_of(session, found, user) if session.ids.single else None
        return snapshots.take(found, container.name, name, folder, ours=copying.not_its_own(session, container.id),
                              copied=bool(answer["copied"]), single=single).reference


def _go_on(container: Container) -> None:
    with contextlib.suppress(ContainerNotStarted):   # it was ended meanwhile
        container.unpause()
