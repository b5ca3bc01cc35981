"""What ordinary clients and proxies send: the heads that the fast lane is there for, each with its body."""

from __future__ import annotations


def _request(text: str, body: bytes = b"") -> bytes:
    return text.strip().replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


_FIREFOX = """Host: shop.example
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.8
Accept-Language: de,en-US;q=0.7,en;q=0.3
Accept-Encoding: gzip, deflate, br, zstd
Connection: keep-alive"""

_FORWARDED = """X-Forwarded-For: 203.0.113.7, 198.51.100.2
X-Forwarded-Proto: https
X-Real-IP: 203.0.113.7"""

WRK = _request("GET / HTTP/1.1\nHost: localhost:8000")

CHROME = _request("""
GET /shop/items?category=books&sort=new&page=2 HTTP/1.1
Host: shop.example
Connection: keep-alive
sec-ch-ua: "Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"
sec-ch-ua-mobile: ?0
sec-ch-ua-platform: "Linux"
Upgrade-Insecure-Requests: 1
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-GB,en-US;q=0.9,en;q=0.8
Cookie: session=eyJfZnJlc2giOmZhbHNlfQ.ZxYz0Q.q2hJd0rPvB7u; csrftoken=Hs8sKq0LmZk2b1; theme=dark
""")

ORDINARY = {
    "wrk": WRK,
    "wrk with a header": _request("GET /a HTTP/1.1\nHost: localhost:8000\nAuthorization: Bearer abc.def.ghi"),
    "ab": _request("GET / HTTP/1.0\nHost: localhost:8000\nUser-Agent: ApacheBench/2.3\nAccept: */*"),
    "ab -k": _request(
        "GET / HTTP/1.0\nConnection: Keep-Alive\nHost: localhost:8000\nUser-Agent: ApacheBench/2.3\nAccept: */*"
    ),
    "ab -p": _request(
        "POST / HTTP/1.0\nContent-length: 3\nContent-type: text/plain\nHost: localhost:8000\n"
        "User-Agent: ApacheBench/2.3\nAccept: */*",
        b"a=1",
    ),
    "curl": _request("GET / HTTP/1.1\nHost: localhost:8000\nUser-Agent: curl/8.5.0\nAccept: */*"),
    "curl -I": _request("HEAD /a/b HTTP/1.1\nHost: [::1]:8000\nUser-Agent: curl/8.5.0\nAccept: */*"),
    "curl -d": _request(
        "POST /form HTTP/1.1\nHost: localhost:8000\nUser-Agent: curl/8.5.0\nAccept: */*\nContent-Length: 7\n"
        "Content-Type: application/x-www-form-urlencoded",
        b"a=1&b=2",
    ),
    "curl -0": _request("GET / HTTP/1.0\nHost: localhost:8000\nUser-Agent: curl/8.5.0\nAccept: */*"),
    "wget": _request(
        "GET /robots.txt HTTP/1.1\nHost: localhost:8000\nUser-Agent: Wget/1.21.4\nAccept: */*\n"
        "Accept-Encoding: identity\nConnection: Keep-Alive"
    ),
    "Chrome": CHROME,
    "Chrome, a form": _request(
        """
POST /shop/cart HTTP/1.1
Host: shop.example
Connection: keep-alive
Content-Length: 11
Cache-Control: max-age=0
sec-ch-ua: "Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"
sec-ch-ua-mobile: ?0
sec-ch-ua-platform: "Windows"
Origin: https://shop.example
Content-Type: application/x-www-form-urlencoded
Upgrade-Insecure-Requests: 1
User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Sec-Fetch-User: ?1
Sec-Fetch-Dest: document
Referer: https://shop.example/shop/items?category=books
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-GB,en-US;q=0.9,en;q=0.8
Cookie: session=eyJfZnJlc2giOmZhbHNlfQ.ZxYz0Q.q2hJd0rPvB7u
DNT: 1
""",
        b"item=1&n=22",
    ),
    "Chrome, a preflight": _request("""
OPTIONS /api/items HTTP/1.1
Host: api.example:8443
Connection: keep-alive
Accept: */*
Access-Control-Request-Method: PUT
Access-Control-Request-Headers: content-type,x-requested-with
Origin: https://shop.example
Sec-Fetch-Mode: cors
"""),
    "Firefox": _request(f"""
GET / HTTP/1.1
{_FIREFOX}
Upgrade-Insecure-Requests: 1
Sec-Fetch-Dest: document
Sec-Fetch-Mode: navigate
Sec-Fetch-Site: none
Sec-Fetch-User: ?1
Priority: u=0, i
"""),
    "Firefox, again": _request(f"""
GET /favicon.ico HTTP/1.1
{_FIREFOX}
If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT
If-None-Match: W/"2ab-1f3"
Cookie: a=1; b="2"; c=
"""),
    "Firefox, JSON": _request(
        f"POST /api HTTP/1.1\n{_FIREFOX}\nContent-Type: application/json\nContent-Length: 8\nTE: trailers", b'{"a": 1}'
    ),
    "Safari": _request("""
GET /caf%C3%A9/?q=%E4%B8%AD HTTP/1.1
Host: shop.example
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
Sec-Fetch-Site: none
Cookie: session=abc
Connection: keep-alive
Sec-Fetch-Mode: navigate
User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0
Accept-Language: zh-CN,zh-Hans;q=0.9
Sec-Fetch-Dest: document
Accept-Encoding: gzip, deflate
"""),
    "requests": _request(
        "GET /a?b=c HTTP/1.1\nHost: localhost:8000\nUser-Agent: python-requests/2.32.3\n"
        "Accept-Encoding: gzip, deflate\nAccept: */*\nConnection: keep-alive"
    ),
    "requests, JSON": _request(
        "POST /a HTTP/1.1\nHost: localhost:8000\nUser-Agent: python-requests/2.32.3\nAccept-Encoding: gzip, deflate\n"
        "Accept: */*\nConnection: keep-alive\nContent-Length: 8\nContent-Type: application/json",
        b'{"a": 1}',
    ),
    "requests, nothing": _request(
        "DELETE /a HTTP/1.1\nHost: localhost:8000\nUser-Agent: python-requests/2.32.3\nAccept-Encoding: gzip, deflate\n"
        "Accept: */*\nConnection: keep-alive\nContent-Length: 0"
    ),
    "urllib": _request(
        "GET / HTTP/1.1\nAccept-Encoding: identity\nHost: localhost:8000\nUser-Agent: Python-urllib/3.12\n"
        "Connection: close"
    ),
    "httpx": _request(
        "GET / HTTP/1.1\nHost: localhost:8000\nAccept: */*\nAccept-Encoding: gzip, deflate\nConnection: keep-alive\n"
        "User-Agent: python-httpx/0.27.2"
    ),
    "httpx, a file": _request(
        "PUT /a HTTP/1.1\nHost: localhost:8000\nAccept: */*\nAccept-Encoding: gzip, deflate\nConnection: keep-alive\n"
        "User-Agent: python-httpx/0.27.2\nContent-Length: 256",
        bytes(range(256)),
    ),
    "aiohttp": _request(
        "GET / HTTP/1.1\nHost: localhost:8000\nAccept: */*\nAccept-Encoding: gzip, deflate\n"
        "User-Agent: Python/3.12 aiohttp/3.10.10"
    ),
    "aiohttp, JSON": _request(
        "PATCH /a HTTP/1.1\nHost: localhost:8000\nAccept: */*\nAccept-Encoding: gzip, deflate\n"
        "User-Agent: Python/3.12 aiohttp/3.10.10\nContent-Length: 2\nContent-Type: application/json",
        b"{}",
    ),
    "Go": _request(
        "GET /v1/items?limit=10 HTTP/1.1\nHost: localhost:8000\nUser-Agent: Go-http-client/1.1\nAccept-Encoding: gzip"
    ),
    "Go, JSON": _request(
        "POST /v1/items HTTP/1.1\nHost: localhost:8000\nUser-Agent: Go-http-client/1.1\nContent-Length: 2\n"
        "Content-Type: application/json\nAccept-Encoding: gzip",
        b"{}",
    ),
    "fetch of Node": _request(
        "GET / HTTP/1.1\nhost: localhost:8000\nconnection: keep-alive\naccept: */*\naccept-language: *\n"
        "sec-fetch-mode: cors\nuser-agent: node\naccept-encoding: gzip, deflate"
    ),
    "a probe of Kubernetes": _request(
        "GET /healthz HTTP/1.1\nHost: 10.1.2.3:8000\nUser-Agent: kube-probe/1.30\nAccept: */*\nConnection: close"
    ),
    "nginx as it comes": _request("GET /a HTTP/1.0\nHost: app\nConnection: close\nUser-Agent: curl/8.5.0\nAccept: */*"),
    "nginx as it comes, a form": _request(
        "POST /a HTTP/1.0\nHost: app\nConnection: close\nContent-Length: 3\nUser-Agent: curl/8.5.0\nAccept: */*\n"
        "Content-Type: application/x-www-form-urlencoded",
        b"a=1",
    ),
    "nginx, kept alive": _request(
        f"GET / HTTP/1.1\n{_FORWARDED}\nX-Request-ID: 8f1c0a\nHost: shop.example\nUser-Agent: curl/8.5.0\nAccept: */*"
    ),
    "nginx, kept alive, a form": _request(
        f"POST / HTTP/1.1\nHost: shop.example\n{_FORWARDED}\nContent-Length: 3\nAccept: */*\nX-CSRF-Token: a", b"a=1"
    ),
    "haproxy": _request(
        "GET / HTTP/1.1\nhost: shop.example\nuser-agent: curl/8.5.0\naccept: */*\nx-forwarded-for: 203.0.113.7\n"
        "x-forwarded-proto: https"
    ),
    "haproxy, JSON": _request(
        "POST /a HTTP/1.1\nhost: shop.example\nuser-agent: curl/8.5.0\naccept: */*\ncontent-type: application/json\n"
        "content-length: 2\nx-forwarded-for: 203.0.113.7\nvia: 2.0 edge",
        b"{}",
    ),
}
