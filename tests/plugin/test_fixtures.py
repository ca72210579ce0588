"""Container fixtures with real containers: forms, scopes, parameters, overriding, marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugin_suites import PRELUDE, run, started

if TYPE_CHECKING:
    import pytest

# ---------------------------------------------------------------- forms


def test_each_test_gets_a_fresh_container(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(box())

@pytest.mark.parametrize("number", range(3))
def test_fresh(db, number):
    assert db.status == "running"
    assert db.exec(["test", "-e", "/mark"]).exit_code == 1
    db.exec(["touch", "/mark"], check=True)
""", passed=3)
    assert started(result) == 3


def test_a_functions_parameters_are_containers_that_run(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box())
seen = []

@container_fixture
def web(db: Container) -> ContainerSpec[Container]:
    seen.append((db.name, db.status))
    return box(env={"DB": db.name})

def test_web(web):
    assert seen == [("db", "running")]
    assert web.exec(["sh", "-c", "echo $DB"]).stdout == "db\\n"
""")


def test_parameters_with_a_default_are_the_functions_own(pytester: pytest.Pytester) -> None:
    run(pytester, """
@container_fixture
def web(size="64M", *, request):
    return box(memory=size, env={"NODE": request.node.name})

def test_web(web):
    assert web.stats().memory_limit == 64 << 20
    assert web.exec(["sh", "-c", "echo $NODE"]).stdout == "test_web\\n"
""")


def test_a_container_is_called_like_its_fixture_unless_it_has_a_name(pytester: pytest.Pytester) -> None:
    run(pytester, """
_db = container_fixture(box())
other = container_fixture(box(name="primary"))
renamed = container_fixture(box(), name="cache")

def test_names(_db, other, cache):
    assert [one.name for one in (_db, other, cache)] == ["db", "primary", "cache"]
    assert _db.read_text("/etc/hostname").strip() == "db"
""")


def test_a_fixture_whose_name_is_no_host_name_needs_a_name_in_its_spec(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
größe = container_fixture(box())
länge = container_fixture(box(name="laenge"))
def test_wrong(größe): pass
def test_right(länge): assert länge.name == "laenge"
""", passed=1, errors=1).stdout.str()
    assert "SpecError: the container of the fixture 'größe' can't have its name: it is no host name" in text
    assert 'name="…" in its spec' in text


def test_a_container_is_ready_and_set_up_before_anything_sees_it(pytester: pytest.Pytester) -> None:
    run(pytester, """
def prepare(handle):
    assert "ready" in handle.logs()
    handle.write_text("/prepared", "yes")

db = container_fixture(say("ready", setup=prepare))

def test_prepared(db):
    assert db.read_text("/prepared") == "yes"
""")


def test_an_autouse_container_needs_no_parameter(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
proxy = container_fixture(box(), autouse=True)
def test_nothing(): pass
""")
    assert started(result) == 1


def test_a_container_asked_for_by_getfixturevalue_is_started_then(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box())

@container_fixture
def web(db): return box()

def test_later(request):
    assert reach(request.getfixturevalue("web"), "db") == "db"
""")


# ---------------------------------------------------------------- class bodies


def test_class_bodies_define_containers_that_are_not_bound(pytester: pytest.Pytester) -> None:
    run(pytester, """
class TestShop:
    size = "64M"
    db = container_fixture(box(memory="32M"))

    @container_fixture
    def web(self, db):
        return box(memory=self.size)

    @container_fixture
    @staticmethod
    def cache(db):
        return box(memory="16M")

    def test_sizes(self, db, web, cache):
        assert [one.stats().memory_limit >> 20 for one in (db, web, cache)] == [32, 64, 16]
""")


def test_a_method_sees_the_instance_that_its_test_runs_on(pytester: pytest.Pytester) -> None:
    run(pytester, """
class TestShop:
    @pytest.fixture(autouse=True)
    def prepare(self):
        self.size = "32M"

    @container_fixture
    def web(self, prepare):
        return box(memory=self.size)

    def test_size(self, web):
        assert web.stats().memory_limit == 32 << 20
""")


def test_a_derived_class_overrides_a_container(pytester: pytest.Pytester) -> None:
    run(pytester, """
class Base:
    db = container_fixture(box(memory="32M"))
    expected = 32

    def test_size(self, db):
        assert db.stats().memory_limit >> 20 == self.expected

class TestBase(Base): pass

class TestDerived(Base):
    db = container_fixture(box(memory="16M"))
    expected = 16
""", passed=2)


def test_a_plugin_object_defines_containers(pytester: pytest.Pytester) -> None:
    run(pytester, "def test_size(web): assert web.stats().memory_limit == 32 << 20\n", conftest="""
class Plugin:
    size = "32M"
    @container_fixture
    def web(self): return box(memory=self.size)

def pytest_configure(config):
    config.pluginmanager.register(Plugin())
""")


# ---------------------------------------------------------------- parameters


def test_params_make_variants(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture(params=["16M", "32M"], ids=["small", "large"])
def db(param):
    return box(memory=param)

def test_size(db, request):
    expected = {"small": 16, "large": 32}[request.node.callspec.id]
    assert db.stats().memory_limit >> 20 == expected
""", "-v", passed=2)
    result.stdout.fnmatch_lines(["*::test_size?small? PASSED*", "*::test_size?large? PASSED*"])


def test_a_test_parametrizes_a_container_indirectly(pytester: pytest.Pytester) -> None:
    run(pytester, """
@container_fixture
def db(param):
    return box(memory=param)

@pytest.mark.parametrize("db", ["16M", "32M"], indirect=True)
def test_size(db, request):
    assert db.stats().memory_limit >> 20 == int(request.node.callspec.params["db"][:2])
""", passed=2)


def test_a_session_container_is_made_anew_for_each_parameter(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture(scope="session", params=["16M", "32M"])
def db(param):
    return box(memory=param)

seen = {}
@pytest.mark.parametrize("number", range(2))
def test_size(db, number):
    seen[db.id] = db.status
    assert len([one for one in seen.values()]) == (1 if db.stats().memory_limit == 16 << 20 else 2)
""", passed=4)
    assert started(result) == 2


def test_a_parameter_that_the_function_does_not_take_is_an_error(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(box())
@pytest.mark.parametrize("db", ["16M"], indirect=True)
def test_size(db): pass
""", errors=1)
    assert "container fixture 'db' was given the parameter '16M', but its function takes none" in result.stdout.str()


def test_a_parameter_that_is_missing_is_an_error(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture
def db(param): return box()
def test_size(db): pass
""", errors=1)
    assert "takes `param`, but it was given none" in result.stdout.str()


def test_a_function_must_return_a_spec(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture
def db(): return "busybox"
def test_size(db): pass
""", errors=1)
    assert "the function of container fixture 'db' returned 'busybox', which is no ContainerSpec" in result.stdout.str()


def test_an_error_in_a_function_is_shown_in_the_users_code(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture
def db(): return box(memory=1 / 0)
def test_size(db): pass
""", errors=1)
    result.stdout.fnmatch_lines([">   def db(): return box(memory=1 / 0)", "E   ZeroDivisionError: division by zero"])


def test_acting_on_a_handle_that_has_only_been_planned_says_so(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture
def db(db):
    db.exec(["true"])
    return db.spec
def test_size(db): pass
""", conftest="db = container_fixture(box())", errors=1)
    assert "planned, not started: a spec function may read its facts only" in result.stdout.str()


# ---------------------------------------------------------------- overriding


def test_a_module_overrides_a_container_of_its_conftest(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(box(memory="16M"))
def test_size(web, db):
    assert db.stats().memory_limit == 16 << 20
    assert reach(web, "db") == "db"
""", conftest="""
db = container_fixture(box(memory="64M"))
@container_fixture
def web(db): return box()
""")
    assert started(result) == 2


def test_an_override_changes_what_it_overrides_and_only_one_container_is_started(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture
def db(db):
    return db.spec.replace(memory="16M")

class TestShop:
    @container_fixture
    def db(self, db):
        return db.spec.replace(env={"B": "2"})

    def test_size(self, db):
        assert db.name == "db"
        assert db.stats().memory_limit == 16 << 20
        assert db.exec(["sh", "-c", "echo $A$B"]).stdout == "12\\n"
""", conftest='db = container_fixture(box(memory="64M", env={"A": "1"}))')
    assert started(result) == 1


def test_a_plain_fixture_that_overrides_gets_a_container_that_runs(pytester: pytest.Pytester) -> None:
    run(pytester, """
@pytest.fixture
def db(db):
    db.write_text("/seed", "sown")
    return db

def test_seed(db):
    assert db.read_text("/seed") == "sown"
""", conftest="db = container_fixture(box())")


def test_a_wider_container_that_is_overridden_runs_beside_the_one_that_overrides(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
outer = []

@container_fixture
def db(db, cache):
    outer.append(db)
    return db.spec.replace(memory="16M")

def test_both(db, cache):
    assert db is not outer[0]
    assert (db.name, outer[0].name) == ("db", "db")
    assert (db.status, outer[0].status) == ("running", "running")
    assert db.stats().memory_limit == 16 << 20
    assert reach(db, "cache") == "cache"
""", conftest="""
db = container_fixture(box(memory="64M"), scope="session")
cache = container_fixture(box(), scope="session")
""")
    assert started(result) == 3


# ---------------------------------------------------------------- scopes


def test_a_container_lives_as_long_as_its_scope(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(PRELUDE + """
for_session = container_fixture(box(), scope="session")
for_module = container_fixture(box(), scope="module")
for_class = container_fixture(box(), scope="class")
for_test = container_fixture(box(), scope="function")
IDS = {"for_session": [], "for_module": [], "for_class": [], "for_test": []}

@pytest.fixture(autouse=True)
def note(request, for_session, for_module, for_class, for_test):
    for name, ids in IDS.items():
        container = request.getfixturevalue(name)
        assert container.status == "running"
        if container not in ids:
            ids.append(container)

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"IDS {[len(ids) for ids in IDS.values()]} {set(c.status for ids in IDS.values() for c in ids)}")
""")
    suite = """
class TestOne:
    def test_1(self): pass
    def test_2(self): pass
class TestTwo:
    def test_1(self): pass
"""
    pytester.makepyfile(test_a=suite, test_b=suite)
    result = pytester.runpytest()
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["IDS ?1, 2, 4, 6? {'stopped'}"])
    assert started(result) == 13


def test_a_package_has_containers_of_its_own(pytester: pytest.Pytester) -> None:
    test = "IDS = []\ndef test_db(db):\n    assert db.status == 'running'\n    print('ID', db.id)\n"
    for package in ("shop", "bank"):
        folder = pytester.mkpydir(package)
        (folder / "conftest.py").write_text(PRELUDE + 'db = container_fixture(box(), scope="package")')
        (folder / "test_1.py").write_text(test)
        (folder / "test_2.py").write_text(test)
    result = pytester.runpytest()
    result.assert_outcomes(passed=4)
    assert started(result) == 2


def test_a_scope_can_be_decided_at_run_time(pytester: pytest.Pytester) -> None:
    test = """
def scope(fixture_name, config):
    assert fixture_name == "db"
    return config.getoption("db_scope")

db = container_fixture(box(), scope=scope)

@pytest.mark.parametrize("number", range(2))
def test_db(db, number): pass
"""
    conftest = 'def pytest_addoption(parser): parser.addoption("--db-scope")'
    assert started(run(pytester, test, "--db-scope=module", conftest=conftest, passed=2)) == 1
    assert started(run(pytester, test, "--db-scope=function", conftest=conftest, passed=2)) == 2


def test_a_wider_container_can_not_depend_on_a_narrower_one(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(box())
@container_fixture(scope="session")
def web(db): return box()
def test_web(web): pass
""", errors=1)
    result.stdout.fnmatch_lines(["*ScopeMismatch*"])


# ---------------------------------------------------------------- marks


def test_a_mark_changes_a_container_for_a_test(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(memory="64M", env={"A": "1"}))

@pytest.mark.sealed("db", memory="16M", env={"B": "2"})
def test_changed(db):
    assert db.stats().memory_limit == 16 << 20
    assert db.exec(["sh", "-c", "echo $A$B"]).stdout == "12\\n"

def test_unchanged(db):
    assert db.stats().memory_limit == 64 << 20
""", passed=2)


def test_the_nearest_mark_has_the_last_word(pytester: pytest.Pytester) -> None:
    run(pytester, """
pytestmark = pytest.mark.sealed("db", memory="64M")
db = container_fixture(box())

@pytest.mark.sealed("db", memory="32M")
class TestShop:
    def test_class(self, db): assert db.stats().memory_limit >> 20 == 32

    @pytest.mark.sealed("db", memory="16M")
    def test_test(self, db): assert db.stats().memory_limit >> 20 == 16

def test_module(db): assert db.stats().memory_limit >> 20 == 64
""", passed=3)


def test_a_mark_on_a_module_changes_its_module_scoped_container(pytester: pytest.Pytester) -> None:
    run(pytester, """
pytestmark = pytest.mark.sealed("db", memory="16M")
def test_size(db): assert db.stats().memory_limit >> 20 == 16
""", conftest='db = container_fixture(box(memory="64M"), scope="module")')


def test_a_mark_of_a_parameter_set_changes_a_container(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(memory="64M"))

@pytest.mark.parametrize("size", [64, pytest.param(16, marks=pytest.mark.sealed("db", memory="16M"))])
def test_size(db, size): assert db.stats().memory_limit >> 20 == size
""", passed=2)


# ---------------------------------------------------------------- sandboxes by hand


def test_sandboxes_live_as_long_as_their_scope(pytester: pytest.Pytester) -> None:
    run(pytester, """
boxes = {}

def test_first(sealed, sealed_module, sealed_session):
    for name, sandbox in {"test": sealed, "module": sealed_module, "session": sealed_session}.items():
        boxes[name] = sandbox.run(box(), name=name)

def test_second(sealed, sealed_module, sealed_session):
    assert {name: one.status for name, one in boxes.items()} == {"test": "stopped", "module": "running", "session": "running"}
    assert sealed.containers == []
    assert sealed_module.containers == [boxes["module"]]
""", passed=2)


def test_what_is_run_by_hand_is_beside_the_tests_containers(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box())

def test_beside(db, sealed: Sandbox):
    beside = sealed.run("busybox", ["sleep", "1000"])
    assert reach(beside, "db") == "db"
    assert sealed.containers == [db, beside]
""")


# ---------------------------------------------------------------- missing images


def test_a_missing_image_is_an_error_of_the_tests_that_need_it(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
wrong = container_fixture(image("busybocks"))
right = container_fixture(box())
def test_wrong(wrong): pass
def test_right(right): pass
""", passed=1, errors=1)
    result.stdout.fnmatch_lines(["E   *ImageNotFound: *no image 'busybocks'*did you mean 'busybox'?*"])


def test_a_run_builds_nothing_and_names_the_command(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(image("postgres"))
def test_wrong(db): pass
""", "--sealed-store=empty", errors=1)
    result.stdout.fnmatch_lines(["*remedy: sealed build postgres"])
    text = result.stdout.str().partition("ERRORS")[2]
    assert "pytest_sealed/" not in text
    assert "--full-trace" not in text   # nothing of the user's is hidden
