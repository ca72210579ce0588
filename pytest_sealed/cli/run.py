"""`sealed run [-ti] IMAGE [COMMAND …]`: one container in the foreground, gone when it ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from pytest_sealed.cli.terminal import Streams, Terminal
from pytest_sealed.container import Container, image
from pytest_sealed.errors import SpecError
from pytest_sealed.sandbox import Sandbox
from pytest_sealed.secret import MOST
from pytest_sealed.spec import ContainerOptions, ContainerSpec, Mount

__all__ = ["add_parser", "run"]

_ALIKE = ("memory", "cpus", "cpu_shares", "pids", "shm_size", "user", "workdir", "name", "hostname", "seccomp")
"""Flags whose values are the container options' of that name."""


def add_parser(subparsers: Any) -> None:
    """Add `run` to the commands."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run", help="run a container in the foreground", description="Run a container in the foreground; it is gone when it ends. "
        "In a terminal (-t), Ctrl-P Ctrl-Q ends it whatever it does.")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass it the standard input")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="a line NAME=VALUE for each; # begins a comment")
    parser.add_argument("-m", "--memory", metavar="SIZE", help="such as 64M")
    parser.add_argument("--cpus", type=float, metavar="N", help="such as 0.5")
    parser.add_argument("--cpu-shares", type=int, metavar="N", help="against other containers; 1024 by default")
    parser.add_argument("--pids", type=int, metavar="N")
    parser.add_argument("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="such as nofile=1024; -1 for no limit")
    parser.add_argument("--shm-size", metavar="SIZE", help="of /dev/shm; 64M by default")
    parser.add_argument("--tmpfs", action="append", default=[], metavar="PATH", help="an empty file system in memory")
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]")
    parser.add_argument("-w", "--workdir", metavar="PATH")
    parser.add_argument("-v", "--volume", action="append", default=[], metavar="HOST:PATH[:rw]", help="a host folder, read-only unless rw")
    parser.add_argument("--secret", action="append", default=[], metavar="id=NAME,src=FILE",
                        help="what a file of the host says, as /run/secrets/NAME for its user alone")
    parser.add_argument("-p", "--publish", action="append", default=[], metavar="PORT",
                        help="print the loopback port that leads to this port of it")
    parser.add_argument("--rm", action="store_true", help="as ever: it is gone when it ends")
    parser.add_argument("--name", metavar="NAME")
    parser.add_argument("--hostname", metavar="NAME", help="by default its name")
    parser.add_argument("--network", choices=["default", "none"], default="default")
    parser.add_argument("--entrypoint", metavar="PROGRAM")
    parser.add_argument("--init", action="store_true", help="a small init is PID 1 and reaps orphans")
    parser.add_argument("--read-only", action="store_true", help="the root file system can't be written")
    parser.add_argument("--nested", action="store_true", help="pytest-sealed works inside; weaker")
    parser.add_argument("--seccomp", metavar="PROFILE", help="which system calls it may make: default, unconfined, or a file")
    parser.add_argument("--explain", action="store_true", help="print the steps that make the container, and run nothing")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="instead of the image's, with its arguments")


def run(args: argparse.Namespace) -> int:
    """Run the container; return its exit code, or 128 + n where signal n ended it. `cli.main` has those of failures."""
    spec, ports = _spec(args), [_port(text) for text in args.publish]
    if args.explain:
        return _explain(spec)
    if args.tty and not os.isatty(0):
        raise SpecError("-t needs a terminal, and the standard input is none", remedy="leave -t out, or run it from a terminal")
    with Sandbox(name="run") as sandbox:
        container = sandbox.run(spec, start=False)
        for port in ports:
            print(f"port {port} → 127.0.0.1:{container.port(port)}", file=sys.stderr)
        with _ending(container):
            if args.tty:
                with Terminal(escape=b"\x10\x11") as terminal:
                    columns, rows = os.get_terminal_size(0)
                    master = container.launch(terminal=(rows, columns))
                    assert master is not None  # noqa: S101  (asked for above)
                    terminal.serve(master, container)
            else:
                with Streams(interactive=args.interactive) as streams:
                    container.launch(stdio=streams.theirs)
                    streams.serve(container)
            code = container.wait()
        if container.oom_killed:
            print(f"sealed: {container.obituary()}", file=sys.stderr)
        return code


def _spec(args: argparse.Namespace) -> ContainerSpec[Container]:
    options: ContainerOptions = {"wait": None, "init": args.init, "read_only": args.read_only, "nested": args.nested,
                                 "env": {**_env_files(args.env_file), **_environment(args.env)},
                                 "mounts": [_mount(text) for text in args.volume], "tmpfs": args.tmpfs, "secrets": _secrets(args.secret),
                                 "ulimits": dict(map(_ulimit, args.ulimit))}
    if args.command:
        options["command"] = args.command[1:] if args.command[0] == "--" else args.command
    if args.entrypoint is not None:
        options["entrypoint"] = [args.entrypoint] if args.entrypoint else []
    if args.network == "none":
        if args.publish:
            raise SpecError(f"-p {args.publish[0]} leads nowhere with --network none", remedy="leave one of them out")
        options["network"] = None
    given = {key: getattr(args, key) for key in _ALIKE if getattr(args, key) is not None}
    return image(args.image, **options, **given)


def _port(text: str) -> int:
    if not text.isdecimal():
        raise SpecError(f"-p {text} is not one port of the container", remedy="for example -p 80: a free port of the loopback leads there, "
                        "and is printed")
    return int(text)


def _environment(rows: list[str]) -> dict[str, str]:
    environment = {}
    for row in rows:
        name, equals, value = row.partition("=")
        if not equals:
            raise SpecError(f"-e {row}: no value; nothing of the host's environment enters a container",
                            remedy=f'give it: -e {row}="${row}"')
        environment[name] = value
    return environment


def _env_files(paths: list[str]) -> dict[str, str]:
    """Return what files in the form of `docker run --env-file` say: values as they stand, without quotes or escapes."""
    environment = {}
    for path in paths:
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"--env-file {path} can't be read: {getattr(error, 'strerror', None) or 'it is no UTF-8'}",
                            remedy="give a file of lines NAME=VALUE") from error
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, equals, value = line.lstrip().partition("=")
            if not equals:
                raise SpecError(f"{path}:{number}: {name.strip()} has no value; nothing of the host's environment enters a container",
                                remedy=f"write {name.strip()}=VALUE")
            environment[name] = value
    return environment


def _ulimit(text: str) -> tuple[str, tuple[int, int]]:
    match = re.fullmatch(r"(\w+)=(-?\d{1,18})(?::(-?\d{1,18}))?", text, re.ASCII)
    if match is None:
        raise SpecError(f"--ulimit {text} is not NAME=SOFT or NAME=SOFT:HARD", remedy="for example --ulimit nofile=1024:4096")
    return match[1], (int(match[2]), int(match[3] or match[2]))


def _mount(text: str) -> Mount:
    source, colon, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not colon or mode not in ("", "ro", "rw"):
        raise SpecError(f"-v {text} is not HOST:PATH or HOST:PATH:rw", remedy="for example -v ./data:/data")
    return Mount(source=source, target=target, read_only=mode != "rw")


def _secrets(rows: list[str]) -> dict[str, bytes]:
    secrets: dict[str, bytes] = {}
    for name, value in map(_secret, rows):
        if name in secrets:
            raise SpecError(f"the secret {name!r} is given twice", remedy="give each --secret an id of its own")
        secrets[name] = value
    return secrets


def _secret(text: str) -> tuple[str, bytes]:
    """Return the name and the value of a secret. No error shows `text`: it may be a value by mistake."""
    fields = [field.partition("=") for field in text.split(",")]
    given = {key: value for key, _, value in fields}
    if set(given) != {"id", "src"} or len(fields) != 2 or not all(given.values()):
        raise SpecError("--secret takes id=NAME,src=FILE: values on a command line are seen by everybody", remedy="for example "
                        "--secret id=db_password,src=password.txt, or src=<(…) for what a command writes")
    try:
        with open(os.path.expanduser(given["src"]), "rb") as file:
            return given["id"], file.read(MOST + 1)
    except OSError as error:
        raise SpecError(f"the file of the secret {given['id']!r} can't be read: {error.strerror}",
                        remedy="give its path by --secret id=NAME,src=FILE") from error


def _explain(spec: ContainerSpec[Container]) -> int:
    from pytest_sealed.images.store import Store
    from pytest_sealed.request import run_request
    from pytest_sealed.runtime.idmap import find_id_map
    from pytest_sealed.runtime.plan import Facts, plan
    found = Store().pinned(spec.image)
    request = run_request(spec, found, container="ID", name=spec.name or "NAME", networks=[], ports=[], mounts=[])
    request["resolv_conf"] = ""
    ids = find_id_map()
    facts = Facts(scratch_point="SCRATCH", disk="DISK", etc="ETC", procs=["CGROUP/tasks"], memory_upper=True)
    print(f"ids: {ids.mode}; inside, user id 0 to {max(0, ids.count - 1)} are {ids.uid_start} and up on the host")
    for step in plan(request, facts, ids):
        print(step)
    print(f"enter a user namespace; keep capabilities {', '.join(spec.capabilities)}; no_new_privs; "
          f"{_filters(spec, request)}; run {' '.join(request['argv'])} as {request['user'] or 'root'}")
    return 0


def _filters(spec: ContainerSpec[Container], request: dict[str, Any]) -> str:
    if spec.seccomp == "unconfined":
        return "no filter of system calls"
    return f"filters of system calls: {', '.join(request['seccomp']['ready']) or spec.seccomp}"


@contextlib.contextmanager
def _ending(container: Container) -> Any:
    """End the container when this process is asked to end; pass an interrupt on, and kill at the second."""
    interrupts = 0

    def interrupted(number: int, _frame: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if container.status == "running":
            container.kill() if interrupts > 1 else container.signal(number)

    def ended(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)
    previous = {number: signal.signal(number, handler) for number, handler in (
        (signal.SIGINT, interrupted), (signal.SIGTERM, ended), (signal.SIGHUP, ended))}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
