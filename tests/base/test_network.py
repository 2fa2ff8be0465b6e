"""Without a network a name on the hub is answered for at once; behind a proxy, as ever."""

import socket

import pytest
from huggingface_hub import constants

from dwt_cli.base import network
from dwt_cli.base.errors import UserError
from dwt_cli.models.checkpoint import open_config
from dwt_cli.models.options import Checkpoint, Head


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
