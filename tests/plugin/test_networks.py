"""Who reaches whom by which name: the rule of docs/decisions/0020."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugin_suites import PRELUDE, run, started

if TYPE_CHECKING:
    import pytest


def test_the_containers_of_a_test_reach_each_other_by_name(pytester: pytest.Pytester) -> None:
    run(pytester, """
web = container_fixture(box())
db = container_fixture(box())

def test_names(web, db):
    assert (reach(web, "db"), reach(db, "web")) == ("db", "web")
    assert web.address == "10.89.0.2" and db.address == "10.89.0.3"
""")


def test_every_test_has_the_same_addresses(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box())

@pytest.mark.parametrize("number", range(3))
def test_address(db, number):
    assert db.address == "10.89.0.2"
""", passed=3)


def test_a_container_reaches_one_of_wider_scope_that_it_depends_on(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(), scope="session")
cache = container_fixture(box())

@container_fixture
def web(db): return box()

@pytest.mark.parametrize("number", range(2))
def test_names(web, cache, db, number):
    assert reach(web, "db") == "db"          # of the session
    assert reach(web, "cache") == "cache"    # of the test
    assert reach(cache, "web") == "web"
""", passed=2)


def test_it_reaches_one_that_it_depends_on_through_other_fixtures(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(), scope="session")

@pytest.fixture(scope="module")
def settings(db):
    return {"host": db.name}

@container_fixture(scope="module")
def api(settings): return box()

@container_fixture
def web(api): return box()

def test_names(web, api):
    assert reach(api, "db") == "db"
    assert (reach(web, "api"), reach(web, "db")) == ("api", "db")
""")


def test_a_wider_container_can_not_find_a_narrower_one(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(), scope="session")

@container_fixture
def web(db): return box()

def test_names(web, db):
    assert "bad address" in reach(db, "web")
""")


def test_a_container_is_apart_from_wider_ones_that_it_does_not_depend_on(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(), scope="session")
web = container_fixture(box())

def test_names(web, db):
    assert "bad address" in reach(web, "db")
    refusal = web.exec(["nc", "-w", "1", db.address, "80"], stdin="GET /hostname HTTP/1.0\\r\\n\\r\\n")
    assert refusal.exit_code != 0 and refusal.stdout == ""
""")


def test_two_scopes_may_use_one_name_and_the_nearer_is_meant(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
@container_fixture
def web(shared): return box(name="db")

@container_fixture
def client(web, shared): return box()

def test_names(client, web, db, shared):
    assert web.name == db.name == "db"
    assert reach(client, "db") == "db"
    assert client.exec(["nslookup", "db"]).stdout.count("Address: 10.89.0.") == 1
    assert client.read_text("/etc/hosts").split("\\tdb\\n")[0].split("\\n")[-1] == web.address
""", conftest="""
db = container_fixture(box(), scope="session")
shared = container_fixture(box(), scope="session")
""")
    assert started(result) == 4


def test_of_two_wider_scopes_the_nearer_is_meant(pytester: pytest.Pytester) -> None:
    run(pytester, """
nearer = container_fixture(box(name="db"), scope="module")

@container_fixture
def client(nearer, farther): return box()

def test_names(client, nearer, farther):
    hosts = client.read_text("/etc/hosts").splitlines()
    assert [row.split()[0] for row in hosts if row.endswith("\\tdb")] == [nearer.address, farther.address]
""", conftest='farther = container_fixture(box(name="db"), scope="session")')


def test_a_wider_container_asked_for_late_is_reached_too(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(), scope="session")
cache = container_fixture(box())

@container_fixture
def web(db): return box()

def test_names(cache, request):   # the test's network is there before the session's
    web = request.getfixturevalue("web")
    assert (reach(web, "db"), reach(web, "cache")) == ("db", "cache")
""")


def test_a_network_of_its_own_is_a_parameter(pytester: pytest.Pytester) -> None:
    run(pytester, """
back = network_fixture()

@container_fixture
def db(back: Network): return box(network=back)

@container_fixture
def web(db, back: Network): return box(networks=["default", back])

client = container_fixture(box())

def test_reach(sealed, client, web, db, back):
    assert isinstance(back, Network) and back.name == "back"
    assert (reach(web, "db"), reach(web, "client"), reach(client, "web")) == ("db", "client", "web")
    assert "bad address" in reach(client, "db")
""", conftest="""
@pytest.fixture(autouse=True)
def a_default_network(sealed):
    sealed.network()
""")


def test_a_wider_network_is_shared_by_the_tests_of_its_scope(pytester: pytest.Pytester) -> None:
    run(pytester, """
back = network_fixture(scope="module", name="backend")
IDS = set()

@container_fixture(scope="module")
def db(backend): return box(network=backend)

@container_fixture
def web(backend): return box(network=backend)

@pytest.mark.parametrize("number", range(2))
def test_reach(web, db, backend, number):
    IDS.add(backend.id)
    assert len(IDS) == 1
    assert reach(web, "db") == "db"
    assert reach(db, "web") == "web"
""", passed=2)


def test_a_network_is_named_only_where_it_is_known(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
back = network_fixture()
db = container_fixture(box(network="bakc"))
def test_reach(back, db): pass
""", errors=1)
    assert "there is no network 'bakc' in this sandbox, did you mean 'back'?" in result.stdout.str()


def test_without_a_network_there_is_only_loopback(pytester: pytest.Pytester) -> None:
    run(pytester, """
db = container_fixture(box(), scope="session")

@container_fixture
def job(db): return image("busybox", command=["sleep", "1000"], network=None)

def test_alone(job):
    assert job.exec(["ls", "/sys/class/net"]).stdout.split() == ["lo"]
""")


def test_two_containers_of_one_name_in_one_test_are_refused(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(box())
replica = container_fixture(box(name="db"))
def test_names(db, replica): pass
""", errors=1)
    assert "there is a container called 'db' already" in result.stdout.str()


def test_containers_of_one_scope_are_apart_from_those_of_its_neighbour(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(PRELUDE + """
import gc
SEEN = []
db = container_fixture(box(), scope="module")
""")
    test = PRELUDE + """
def test_alone(db):
    assert db.read_text("/etc/hosts").count("10.89.") == 1
    assert db.address == "10.89.2.2"
"""
    pytester.makepyfile(test_a=test, test_b=test)
    pytester.runpytest().assert_outcomes(passed=2)
