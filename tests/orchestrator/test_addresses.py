from __future__ import annotations

import socket

import pytest

from orchestrator.addresses import check_address, is_own, takes_jobs
from orchestrator.errors import UserError


@pytest.fixture
def listening():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("address", [None, "local", "auto"])
def test_what_needs_no_way_there_is_taken(address):
    check_address(address)
    assert not takes_jobs(address)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}", "http://localhost:{}/"])
def test_what_answers_is_taken(listening, form):
    address = form.format(listening)
    check_address(address)
    assert takes_jobs(address) == address.startswith("http")


@pytest.mark.parametrize(
    "address",
    ["", "foo", "bogus://x:1", "http://", "http://:8265", "http://x:99999", "x:y", "http://x/jobs"],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UserError, match=f"--address '{address}' is no address; it may be auto"):
        check_address(address)


def test_ray_client_is_refused_with_what_works():
    with pytest.raises(UserError, match="submit the sweep as a job with --address http://far:8265"):
        check_address("ray://far:10001")


def test_credentials_do_not_belong_there():
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN") as caught:
        check_address("http://me:secret@host:8265")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}", "https://127.0.0.1:{}"])
def test_where_nothing_answers_is_told(form):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(UserError, match=f"nothing answers at 127.0.0.1 port {port}"):
            check_address(form.format(port))


def test_a_host_that_is_not_known_is_told():
    with pytest.raises(UserError, match=r"nothing answers at nowhere.invalid port 6379"):
        check_address("nowhere.invalid:6379")


def test_this_machine_alone_has_two_names():
    assert [is_own(address) for address in (None, "local", "auto", "10.0.0.1:6379")] == [
        True, True, False, False,
    ]  # fmt: skip
