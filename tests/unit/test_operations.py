"""Operations as values: they describe themselves, compare, and never change."""

from __future__ import annotations

import errno

import pytest

from pytest_sealed.runtime import operations as op
from pytest_sealed.runtime.idmap import IdMap
from pytest_sealed.runtime.operations import Context, Operation, StepFailed, execute

KINDS = [kind for kind in vars(op).values() if isinstance(kind, type) and issubclass(kind, Operation) and kind is not Operation]


def sample(kind: type[Operation]) -> Operation:
    return kind(*(f"<{name}>" for name in kind.__slots__))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_operation_describes_itself_with_every_field(kind: type[Operation]) -> None:
    text = str(sample(kind))
    assert text.split(" ")[0] == kind.__name__
    for name in kind.__slots__:
        assert f"{name}='<{name}>'" in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_operation_says_in_a_docstring_what_it_is(kind: type[Operation]) -> None:
    assert kind.__doc__
    assert kind.__doc__ != Operation.__doc__


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_operations_with_equal_fields_are_equal_and_one_key(kind: type[Operation]) -> None:
    assert sample(kind) == sample(kind)
    assert len({sample(kind), sample(kind)}) == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__slots__], ids=lambda kind: kind.__name__)
def test_an_operation_with_another_field_is_another(kind: type[Operation]) -> None:
    fields = [f"<{name}>" for name in kind.__slots__]
    for number in range(len(fields)):
        assert kind(*fields[:number], "other", *fields[number + 1:]) != sample(kind)


def test_operations_of_two_kinds_with_the_same_fields_differ() -> None:
    assert op.Masked("/proc/keys") != op.ReadOnly("/proc/keys")


def test_an_operation_is_immutable() -> None:
    step = op.Masked("/proc/keys")
    with pytest.raises(AttributeError, match="Masked is immutable"):
        step.path = "/etc"
    with pytest.raises(AttributeError):
        step.other = 1
    assert step.path == "/proc/keys"


@pytest.mark.parametrize("values", [(), ("/a", "/b")])
def test_an_operation_takes_all_its_fields_and_no_more(values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        op.Masked(*values)


# ---------------------------------------------------------------- the executor


class Noted(Operation):
    """Notes that it was applied, or fails."""

    __slots__ = ("error", "name")
    error: int
    name: str

    def apply(self, context: Context) -> None:
        if self.error:
            raise OSError(self.error, "mount overlay: No space left on device", "/root")
        context.kept[int(self.name)] = int(self.name)


def context() -> Context:
    return Context(IdMap("single", 1000, 1000), "/nowhere")


def test_operations_are_applied_in_order() -> None:
    at = context()
    execute([Noted(0, str(number)) for number in (3, 1, 2)], at)
    assert list(at.kept.values()) == [3, 1, 2]


def test_a_failure_names_the_operation_and_the_reason_and_ends_the_plan() -> None:
    at = context()
    with pytest.raises(StepFailed) as caught:
        execute([Noted(0, "1"), Noted(errno.ENOSPC, "2"), Noted(0, "3")], at)
    assert str(caught.value) == (f"Noted error={errno.ENOSPC} name='2': "
                                 f"[Errno {errno.ENOSPC}] mount overlay: No space left on device: '/root'")
    assert caught.value.errno == errno.ENOSPC
    assert list(at.kept.values()) == [1]
