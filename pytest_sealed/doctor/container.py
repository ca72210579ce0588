"""A whole container, from the start of a session to its command: the proof that all of it works together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_sealed.container import Container
from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.errors import ContainerFailed, SealedError
from pytest_sealed.images.image import Image, ImageConfig
from pytest_sealed.network import Network
from pytest_sealed.runtime.client import Session
from pytest_sealed.spec import make_spec

__all__ = ["check"]

_COMMAND = "/no-command-is-in-an-empty-image"


def check(store: Path, *, explained: bool = False) -> Iterator[Finding]:
    """Start a container of an empty image: all goes well until its command isn't there.

    Args:
        explained: whether an earlier finding has the remedy already.
    """
    try:
        seconds = _start(store)
    except SealedError as error:
        explained = explained or error.remedy.startswith("`sealed doctor`")
        yield Finding(check="containers", state="missing", found=f"none could be started: {error.message}",
                      effect="no container can be started", remedy=Remedy(text="as above" if explained else error.remedy))
    except OSError as error:
        yield Finding(check="containers", state="missing", found=f"none could be started: {error}", effect="no container can be started")
    else:
        yield Finding(check="containers", state="ok", found=f"one was started, up to its command, on a network, in {seconds * 1000:.0f} ms")


def _start(store: Path) -> float:
    import time
    with Session(store / "scratch") as session:
        layer = Path(tempfile.mkdtemp(prefix="layer.", dir=session.run_dir))
        layer.chmod(0o755)
        for name in ("dev", "etc", "proc", "sys"):
            (layer / name).mkdir(mode=0o755)
        found = Image(reference="empty", digest="", layers=(layer,), config=ImageConfig(env={}, labels={}), size=0, created=0)
        network = Network(session, "doctor", set())
        began = time.monotonic()
        container = Container(session, make_spec("empty", Container, {"command": [_COMMAND]}), found, name="doctor", networks=[network])
        try:
            container.start()
        except ContainerFailed as error:
            if _COMMAND not in error.message or "there is no" not in error.message:
                raise
        finally:
            container.remove()
            network.close()
        return time.monotonic() - began
