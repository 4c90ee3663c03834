from __future__ import annotations

import re
import socket

import pytest

from orchestrator.addresses import (
    check_address,
    host_and_port,
    is_own,
    is_ray_client,
    takes_jobs,
)
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


@pytest.mark.parametrize(
    ("form", "jobs", "client"),
    [
        ("127.0.0.1:{}", False, False),
        ("http://127.0.0.1:{}", True, False),
        ("http://localhost:{}/", True, False),
        ("ray://127.0.0.1:{}", True, True),
    ],
)
def test_what_answers_is_taken(listening, form, jobs, client):
    address = form.format(listening)
    check_address(address)
    assert (takes_jobs(address), is_ray_client(address)) == (jobs, client)


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("head:6379", ("head", 6379)),
        ("http://head", ("head", 80)),
        ("https://head/", ("head", 443)),
        ("ray://head", ("head", 10001)),
        ("ray://head:23", ("head", 23)),
        ("ray://[::1]", ("::1", 10001)),
    ],
)
def test_the_port_may_be_left_out_where_there_is_a_usual_one(address, named):
    assert host_and_port(address) == named


@pytest.mark.parametrize(
    "address",
    [
        *("", "foo", "bogus://x:1", "http://", "http://:8265", "http://x:99999", "x:y"),
        *("http://x/jobs", "ray://", "ray://:10001", "ray://x:0x1", "ray://x/y"),
        "http://[::1:8265",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UserError, match=re.escape(f"--address '{address}' is no address; it may")):
        check_address(address)


@pytest.mark.parametrize("scheme", ["http", "ray"])
def test_credentials_do_not_belong_there(scheme):
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN") as caught:
        check_address(f"{scheme}://me:secret@host:8265")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "form", [f"{scheme}127.0.0.1:{{}}" for scheme in ("", "http://", "https://", "ray://")]
)
def test_where_nothing_answers_is_told(form):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(UserError, match=f"nothing answers at 127.0.0.1 port {port}"):
            check_address(form.format(port))


def test_a_name_that_no_host_can_have_is_told():
    with pytest.raises(UserError, match=r"nothing answers at ray\.\.head port 6379"):
        check_address("ray..head:6379")


def test_a_host_that_is_not_known_is_told():
    with pytest.raises(UserError, match=r"nothing answers at nowhere.invalid port 6379"):
        check_address("nowhere.invalid:6379")


def test_this_machine_alone_has_two_names():
    assert [is_own(address) for address in (None, "local", "auto", "10.0.0.1:6379")] == [
        True, True, False, False,
    ]  # fmt: skip
