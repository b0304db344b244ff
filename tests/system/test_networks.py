"""Networks: which peers belong to a set of CIDRs, and what is refused as one."""

import pytest

from forkd.system.networks import Networks, packed


@pytest.mark.parametrize(
    ("texts", "peer", "allowed"),
    [
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.0/8"], "127.255.255.255", True),
        (["127.0.0.0/8"], "128.0.0.1", False),
        (["10.0.0.7"], "10.0.0.7", True),
        (["10.0.0.7"], "10.0.0.8", False),
        (["10.0.0.7/32", "192.168.0.0/16"], "192.168.3.4", True),
        (["::1"], "::1", True),
        (["::1"], "0:0:0:0:0:0:0:1", True),
        (["::1"], "::2", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["2001:db8::/32"], "2001:db8:ffff::1", True),
        (["2001:db8::/32"], "2001:db9::", False),
        # An IPv4 peer of a socket for both families.
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "11.1.2.3", False),
        # The families are apart: 16 bytes that begin as an IPv4 network does belong to no such one.
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["::/0"], "10.0.0.1", False),
        (["unix"], "", True),
        (["127.0.0.0/8", "::1"], "", False),
        (["unix"], "127.0.0.1", False),
        (["*"], "", True),
        (["*"], "8.8.8.8", True),
        (["*"], "2001:db8::1", True),
        (["*"], "unknown", False),
        (["*"], "1.2.3", False),
        (["*"], "1.2.3.04", False),
        (["*"], "1.2.3.4%eth0", False),
        (["*"], "[::1]", False),
        (["*"], "::1\0", False),
        ([], "127.0.0.1", False),
    ],
)
def test_allows(texts: list[str], peer: str, allowed: bool) -> None:
    assert Networks.parse(texts).allows(peer) is allowed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a network"),
        ("Unix", "not a network"),
        ("localhost", "not a network"),
        ("10.0.0.0/33", "not a network"),
        ("10.0.0.0/-1", "not a network"),
        ("10.0.0.0/", "not a network"),
        ("10.0.0.0/255.0.0.0", "not a network"),
        ("10.0.0/8", "not a network"),
        ("::1/129", "not a network"),
        ("fe80::1%eth0", "not a network"),
        ("[::1]", "not a network"),
        ("10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("2001:db8::1/32", "the network is 2001:db8::/32"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Networks.parse([text])


def test_text_reads_back() -> None:
    for texts in (["127.0.0.0/8", "::1", "unix"], ["*"], ["10.0.0.7", "10.0.0.7/32"], []):
        networks = Networks.parse(texts)
        assert Networks.parse(filter(None, str(networks).split(", "))) == networks
    assert str(Networks.parse(["127.0.0.0/8", "::1", "unix"])) == "127.0.0.0/8, ::1/128, unix"
    assert Networks.parse(["*"]).every
    assert not Networks.parse(["127.0.0.0/8", "::1", "unix"]).every


@pytest.mark.parametrize(
    ("texts", "every"),
    [("0.0.0.0/1 128.0.0.0/1", True), ("0.0.0.0/1 128.0.0.0/2 192.0.0.0/3 224.0.0.0/3", True),
     ("::/1 8000::/1 10.0.0.0/8", True), ("0.0.0.0/1 128.0.0.0/2", False), ("0.0.0.0/1 8000::/1", False)],
)  # fmt: skip
def test_several_networks_can_be_all_of_a_family(texts: str, every: bool) -> None:
    assert Networks.parse(texts.split()).every is every


def test_packed() -> None:
    assert packed("1.2.3.4") == packed("::ffff:1.2.3.4") == bytes([1, 2, 3, 4])
    assert packed("::") == bytes(16)
    assert packed("") is packed("1.2.3.4.") is None


def test_all_that_are_wrong_are_named_at_once() -> None:
    with pytest.raises(ValueError) as error:
        Networks.parse(["10.0.0.0/8", "localhost", "10.0.0.1/8", "::/0", "x"])
    assert str(error.value).partition("; allowed are ")[0] == (
        "'localhost' is not a network; '10.0.0.1/8' is an address with a prefix; the network is 10.0.0.0/8; "
        "'x' is not a network"
    )
