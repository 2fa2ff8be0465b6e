"""Without a network a name on the hub is answered for at once; behind a proxy, as ever."""

import socket
import time

import pytest
from huggingface_hub import constants

from dwt_cli.base import network
from dwt_cli.base.errors import UserError
from dwt_cli.models.checkpoint import open_config
from dwt_cli.models.options import Checkpoint, Head
from tests.track.server import serving


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    network.notice_absence.cache_clear()


def test_a_name_is_refused_without_asking_again(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"teacher\.path=nobody/nothing cannot be opened"):
        open_config("teacher.path", Checkpoint(path="nobody/nothing"), Head.masked)
    assert constants.HF_HUB_OFFLINE
    assert "Retrying" not in caplog.text


def test_a_proxy_knows_addresses_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://localhost:9")
    network.notice_absence()
    assert not constants.HF_HUB_OFFLINE


def test_nobody_waits_for_a_hub_that_takes_calls_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(network, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(network, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        network.notice_absence.cache_clear()
        network.notice_absence()
        assert constants.HF_HUB_OFFLINE


def test_where_proxies_are_not_for_is_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    network.notice_absence()
    assert constants.HF_HUB_OFFLINE


def test_nobody_waits_for_a_hub_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(network, "_PATIENCE_S", 1.2)  # two bytes come in that time
    monkeypatch.setattr(network, "getproxies", dict)
    with serving("dripping") as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        network.notice_absence.cache_clear()
        begun = time.monotonic()
        network.notice_absence()
        assert constants.HF_HUB_OFFLINE and time.monotonic() - begun < 60


def test_an_address_that_is_none_is_nobody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "hub.local")
    network.notice_absence()
    assert constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("mood", ["good", "500", "401"])
def test_a_hub_that_answers_is_there(monkeypatch: pytest.MonkeyPatch, mood: str) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(network, "getproxies", dict)
    with serving(mood) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        network.notice_absence.cache_clear()
        network.notice_absence()
        assert not constants.HF_HUB_OFFLINE
