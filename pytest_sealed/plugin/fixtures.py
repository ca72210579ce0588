"""`container_fixture` and `network_fixture`: a spec, or a function that returns one, becomes a pytest fixture."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Union, final, overload

import pytest

from pytest_sealed.errors import SpecError
from pytest_sealed.spec import ContainerSpec

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from pytest_sealed.container import Container
    from pytest_sealed.network import Network

__all__ = ["ContainerFixture", "NetworkFixture", "container_fixture", "network_fixture"]

H = TypeVar("H", bound="Container")
H_co = TypeVar("H_co", bound="Container", covariant=True)

ScopeName = Literal["session", "package", "module", "class", "function"]
Scope = Union[ScopeName, Callable[[str, pytest.Config], ScopeName]]  # noqa: UP007  (evaluated on Python 3.10)
Ids = Union[Sequence[Union[object, None]], Callable[[Any], Union[object, None]]]  # noqa: UP007


class ContainerFixture(Generic[H_co]):
    """What the name of a container fixture is bound to, for type checkers. Tests get the container by a parameter."""


class NetworkFixture:
    """What the name of a network fixture is bound to, for type checkers. Tests get the network by a parameter."""


@overload
def container_fixture(
    spec: ContainerSpec[H], /, *, scope: Scope = ..., name: str | None = ..., autouse: bool = ...,
) -> ContainerFixture[H]: ...
@overload
def container_fixture(function: Callable[..., ContainerSpec[H]], /) -> ContainerFixture[H]: ...
@overload
def container_fixture(
    *, scope: Scope = ..., params: Iterable[object] | None = ..., ids: Ids | None = ..., name: str | None = ...,
    autouse: bool = ...,
) -> Callable[[Callable[..., ContainerSpec[H]]], ContainerFixture[H]]: ...
def container_fixture(what: Any = None, /, **options: Any) -> Any:
    """Define a fixture that gives each of its scope a fresh container, ready to use.

    Args:
        what: a spec, or a function that returns one. The function's parameters are fixtures, as in pytest: other
            containers (they are started first), networks, `request`; `param` is the current one of `params`, or what a
            test passes by indirect parametrization.
        scope, params, ids, name, autouse: as in `pytest.fixture`.

    The container's name on its network is the spec's `name`, else the fixture's.

    Raises:
        SpecError: neither a spec nor a function that can return one, or a spec with `params`.
    """
    caller = sys._getframe(1)
    if what is None:
        return lambda function: _define(ContainerFunction(_checked(function)), options)
    if isinstance(what, ContainerSpec):
        for key in ("params", "ids"):
            if options.get(key) is not None:
                raise SpecError(f"container_fixture(…, {key}=…) was given a spec, which is the same for every parameter",
                                remedy="decorate a function that takes `param` and returns a spec: @container_fixture(params=[…])")
        return _define(ContainerFunction(_constant(what, f"A container of image {what.image!r}.", caller)), options)
    return _define(ContainerFunction(_checked(what)), options)


def network_fixture(*, scope: Scope = "function", name: str | None = None) -> NetworkFixture:
    """Define a fixture that gives each of its scope a private network, for the `network=` of containers."""
    function = _constant(None, "A private network.", sys._getframe(1))
    return _define(_NetworkFunction(function), {"scope": scope, "name": name})  # type: ignore[no-any-return]


# ---------------------------------------------------------------- definition


def _define(function: _Function, options: dict[str, Any]) -> Any:
    return pytest.fixture(**options)(function)


def _checked(function: Any) -> Callable[..., object]:
    if isinstance(function, staticmethod):
        function = function.__func__
    if not inspect.isfunction(function):
        raise SpecError(f"container_fixture was given {function!r}: neither a ContainerSpec nor a function that returns one",
                        remedy='for example db = container_fixture(postgres()) or container_fixture(image("busybox"))')
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise SpecError(f"container_fixture function {function.__name__!r} is a generator or a coroutine: it describes a container, "
                        "and is done before that starts",
                        remedy="return the ContainerSpec; what shall be done once it runs goes into its setup=, the rest into a "
                               "fixture of its own that takes this one as a parameter")
    return function


def _constant(value: object, doc: str, caller: FrameType) -> Callable[[], object]:
    def container_fixture() -> object:
        return value
    container_fixture.__doc__ = doc
    container_fixture.__module__ = str(caller.f_globals.get("__name__"))
    container_fixture.__qualname__ = "container_fixture"
    container_fixture.__code__ = _placed(container_fixture.__code__, caller)
    return container_fixture


def _placed(code: CodeType, caller: FrameType) -> CodeType:
    """Return code that `pytest --fixtures` and lookup errors show at the line of the definition."""
    return code.replace(co_filename=caller.f_code.co_filename, co_firstlineno=caller.f_lineno)


def _in_class_body(function: Callable[..., object]) -> bool:
    body, _, _ = function.__qualname__.rpartition(".")
    return bool(body) and not body.endswith("<locals>")


# ---------------------------------------------------------------- what pytest calls


class _Function:
    """What pytest calls for a fixture.

    An object, since a plain function that is assigned in a class body would be bound to the instance when it is looked up.
    """

    def __init__(self, function: Callable[..., object], takes_self: bool = False) -> None:
        self._function = function
        self.takes_self = takes_self
        required = [
            parameter.name for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        self.needs = tuple(required[takes_self:])
        fixtures = dict.fromkeys(("request", *(name for name in self.needs if name != "param")))
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in (*required[:takes_self], *fixtures)])
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function   # pytest shows its file and line

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __get__(self, instance: object, owner: type | None = None) -> object:
        return MethodType(self, instance) if self.takes_self and instance is not None else self


@final
class ContainerFunction(_Function):
    """Resolves the spec, and starts the container at the fixture's usual time and scope."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function, takes_self=_in_class_body(function))

    def __call__(self, *bound: object, request: pytest.FixtureRequest, **values: Any) -> Container:
        __tracebackhide__ = True
        from pytest_sealed.plugin.session import run_of
        spec = self.spec(request, bound, values)
        overridden = values.get(str(request.fixturename))
        if overridden is not None and getattr(overridden, "started_at", 0) is None:
            overridden.remove()   # it was planned for its spec only, and has the name that this one is to have
        return run_of(request.config).container(request, spec, self.needs)

    def spec(self, request: pytest.FixtureRequest, bound: tuple[object, ...], values: dict[str, object]) -> ContainerSpec[Any]:
        """Return what the function describes, with the changes of `sealed` marks.

        Raises:
            SpecError: the function returned something else, or a parameter is missing or unwanted.
        """
        __tracebackhide__ = True
        from pytest_sealed.plugin import markers
        arguments = {name: values[name] for name in self.needs if name in values}
        if "request" in self.needs:
            arguments["request"] = request
        given = hasattr(request, "param")
        if given != ("param" in self.needs) and "request" not in self.needs:
            raise _parameter_mismatch(request, given)
        if "param" in self.needs:
            arguments["param"] = request.param
        return markers.change(self.describe(arguments, bound, str(request.fixturename)), request)

    def describe(self, arguments: dict[str, object], bound: tuple[object, ...] = (), name: str = "") -> ContainerSpec[Any]:
        """Return what the function returns.

        Args:
            name: of the fixture, for messages.

        Raises:
            SpecError: it's no spec.
        """
        __tracebackhide__ = True
        spec = self._function(*bound, **arguments)
        if not isinstance(spec, ContainerSpec):
            raise SpecError(f"the function of container fixture {name!r} returned {spec!r}, which is no ContainerSpec",
                            remedy='return one, for example image("busybox") or postgres()')
        return spec


@final
class _NetworkFunction(_Function):
    def __call__(self, request: pytest.FixtureRequest) -> Network:
        __tracebackhide__ = True
        from pytest_sealed.plugin.session import run_of
        return run_of(request.config).sandbox(request.node).network(str(request.fixturename))


def function_of(definition: Any) -> ContainerFunction | None:
    """Return what pytest's definition of a fixture calls, if that is a container fixture's."""
    function = getattr(definition.func, "__func__", definition.func)
    return function if isinstance(function, ContainerFunction) else None


def is_ours(definition: Any) -> bool:
    """Return whether pytest's definition of a fixture is one of a container or a network."""
    return isinstance(getattr(definition.func, "__func__", definition.func), _Function)


def _parameter_mismatch(request: pytest.FixtureRequest, given: bool) -> SpecError:
    if given:
        return SpecError(f"container fixture {request.fixturename!r} was given the parameter {request.param!r}, "
                         "but its function takes none",
                         remedy="write it as a function that takes `param` and returns a spec: @container_fixture")
    return SpecError(f"the function of container fixture {request.fixturename!r} takes `param`, but it was given none",
                     remedy="container_fixture(params=[…]), or @pytest.mark.parametrize(…, indirect=True) at the test")
