"""What proxies say, put into an environ: that the short cut for a new client gives what the plain way gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zibai.config.addresses import Trust
from zibai.errors import Refused
from zibai.gateway import proxies
from zibai.gateway.proxies import Proxies
from zibai.protocol.http1.request import Request

ADDRESSES = ["1.2.3.4", "10.0.0.1", "1.2.3.4:5", "1.2.3.256", "01.2.3.4", "1.2.3.4, 5.6.7.8", "::1", "unknown", "", "a"]
OTHERS: st.SearchStrategy[dict[str, str]] = st.fixed_dictionaries(
    {},
    optional={
        "HTTP_HOST": st.sampled_from(["a", "a:81", ""]),
        "HTTP_X_FORWARDED_PROTO": st.sampled_from(["http", "https", "ws", "https, http"]),
        "HTTP_X_FORWARDED_HOST": st.sampled_from(["b", ""]),
        "HTTP_FORWARDED": st.sampled_from(["for=1.1.1.1", "proto=http"]),
    },
)


def use(said: Proxies, fields: dict[str, str], trust: Trust, scheme: str) -> dict[str, Any] | str:
    """The environ of a request with these fields, or why it is refused."""
    environ = {"wsgi.url_scheme": scheme, "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "9", "SCRIPT_NAME": "", **fields}
    service: Any = SimpleNamespace(trust=trust, hint=lambda *_: None)
    client: Any = SimpleNamespace(service=service, peer=("127.0.0.1", 9))
    request = Request("GET", "/", "/", "", "HTTP/1.1", environ)
    try:
        said.use(client, True, request, environ)
    except Refused as refused:
        return str(refused)
    return environ


SCHEMES = st.sampled_from(["http", "https"])


@settings(max_examples=500, deadline=None, database=None)
@given(
    before=st.lists(st.tuples(st.sampled_from(ADDRESSES), OTHERS, SCHEMES), max_size=3),
    others=OTHERS,
    address=st.sampled_from(ADDRESSES),
    believed=st.sampled_from(["for", "proto", "for,proto", "for,proto,host,port,prefix"]),
    scheme=SCHEMES,
)
@example(
    before=[("1.2.3.4", {"HTTP_HOST": "a:81", "HTTP_X_FORWARDED_PROTO": "https"}, "http")],
    others={"HTTP_HOST": "a", "HTTP_X_FORWARDED_PROTO": "https"},
    address="10.0.0.1",
    believed="for,proto",
    scheme="http",
)
def test_the_short_cut_for_a_new_client_gives_what_the_plain_way_gives(
    before: list[tuple[str, dict[str, str], str]], others: dict[str, str], address: str, believed: str, scheme: str
) -> None:
    trust, said, plain = Trust(["10.0.0.0/8"], believed), Proxies(""), Proxies("")
    plain._use_address = lambda *_: False  # type: ignore[method-assign]
    fields = others | {"HTTP_X_FORWARDED_FOR": address}
    for each, beside, by in [*before, ("9.9.9.9", others, scheme)]:
        use(said, beside | {"HTTP_X_FORWARDED_FOR": each}, trust, by)
    assert use(said, fields, trust, scheme) == use(plain, fields, trust, scheme)


@pytest.mark.parametrize("proto", [{}, {"HTTP_X_FORWARDED_PROTO": "https"}], ids=["for", "for and proto"])
def test_a_new_client_takes_the_short_cut(proto: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    said, trust = Proxies(""), Trust(["127.0.0.1"])
    use(said, {"HTTP_HOST": "a", "HTTP_X_FORWARDED_FOR": "1.2.3.4", **proto}, trust, "http")
    monkeypatch.setattr(proxies, "read_plain", lambda *_: pytest.fail("the plain way"))
    found: Any = use(said, {"HTTP_HOST": "a", "HTTP_X_FORWARDED_FOR": "5.6.7.8", **proto}, trust, "http")
    assert found["REMOTE_ADDR"] == "5.6.7.8"
    assert found["wsgi.url_scheme"] == ("https" if proto else "http")
    assert "REMOTE_PORT" not in found


def test_what_is_kept_is_bounded() -> None:
    said, trust = Proxies(""), Trust(["127.0.0.1"])
    for number in range(3000):
        use(said, {"HTTP_HOST": f"a{number}", "HTTP_X_FORWARDED_FOR": "1.2.3.4"}, trust, "http")
        use(said, {"HTTP_HOST": "a" * 600, "HTTP_X_FORWARDED_FOR": f"1.2.3.{number % 256}"}, trust, "http")
    assert len(said._beside_address) <= 1024
    assert max(len("".join(filter(None, key))) for key in said._beside_address) <= 512
