"""`sealed`: images, and containers by hand. Each command is a module of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from pytest_sealed.errors import ContainerFailed, SealedError, nearest, no_linux

__all__ = ["main"]

COMMANDS = {
    "build": "build images from recipes",
    "images": "list images",
    "inspect": "show all that is known of images",
    "history": "show what each layer of an image is",
    "diff": "show what is different in another image",
    "tag": "give an image another name",
    "verify": "examine every file of images",
    "lock": "write sealed.lock: which images a project runs on, exactly",
    "sync": "get the images that sealed.lock says",
    "rm": "remove images",
    "prune": "free space in the store",
    "pull": "fetch images from a registry",
    "push": "send an image to a registry",
    "login": "keep credentials for a registry",
    "logout": "forget credentials for a registry",
    "load": "take images from an archive",
    "save": "write images into an archive",
    "pack": "pack an image as a Python wheel",
    "export": "put images into a file that is added to, for a CI cache",
    "import": "take images from such a file",
    "run": "run a container in the foreground",
    "ps": "show live sandboxes and their containers",
    "sweep": "remove what killed sessions left behind",
    "doctor": "try what containers need here, and say what mends the rest",
    "delegate": "let an ordinary account set limits (cgroup v1)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. An error is one line and its remedy on the standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    failed = 125 if words[:1] == ["run"] else None   # as `docker run` has it, since its other exit codes are the command's
    try:
        args = _parser(words).parse_args(words)
        absent = no_linux()
        if absent is not None and args.sealed_command != "doctor":   # which says so itself
            raise absent
        return int(import_module(f"pytest_sealed.cli.{args.sealed_command}").run(args))
    except SealedError as error:
        print(f"sealed: {error}", file=sys.stderr)
        return (error.exit_status if isinstance(error, ContainerFailed) and failed else None) or failed or 1
    except SystemExit as error:
        if error.code == 2 and failed:   # argparse's
            return failed
        raise
    except KeyboardInterrupt:
        print("sealed: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:   # `sealed images | head`
        sys.stderr.close()
        return 141


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Return the parser; it knows only the command that is asked for, so that the others aren't imported."""
    parser = argparse.ArgumentParser(prog="sealed", description="Fresh, isolated containers for every test: by hand, and their images.",
                                     epilog="SEALED_STORE names another image store. Each command has --help.")
    parser.add_argument("--version", action="version", version=f"sealed {_version()}" if "--version" in words[:1] else "")
    subparsers = parser.add_subparsers(dest="sealed_command", metavar="COMMAND", required=True)
    command = words[0] if words else ""
    if command in COMMANDS:
        import_module(f"pytest_sealed.cli.{command}").add_parser(subparsers)
        return parser
    for name, text in COMMANDS.items():
        subparsers.add_parser(name, help=text)
    if command and not command.startswith("-"):
        parser.error(f"there is no command {command!r}{nearest(command, COMMANDS)}")
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("pytest-sealed")
    except PackageNotFoundError:
        return "(not installed)"
