"""What is let through to Gradio, and what is added to its answers."""

import asyncio

import pytest

from hkdnet_jax.web.guard import Guard

PAGE = b"<html><body><gradio-app></gradio-app></body></html>"


def ask(path, headers=(), body=PAGE, upload=1000):
    """(status, headers, body) of a request, and whether the application saw it."""
    seen, sent = [], []

    async def app(scope, receive, send):
        seen.append(scope["path"])
        length = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        half = len(body) // 2
        for part, more in ((body[:half], True), (body[half:], False)):
            await send({"type": "http.response.body", "body": part, "more_body": more})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers)}
    asyncio.run(Guard(app, upload)(scope, None, send))
    start, *rest = sent
    content = b"".join(message["body"] for message in rest)
    return start["status"], dict(start["headers"]), content, bool(seen)


def test_the_page_gets_a_sentence_for_browsers_without_scripts():
    status, headers, body, _ = ask("/")
    assert status == 200 and int(headers[b"content-length"]) == len(body)
    assert body.count(b"<noscript>") == 1 and b"needs JavaScript" in body
    assert body.index(b"</noscript>") < body.index(b"<gradio-app")
    before, _, rest = body.partition(b"<noscript>")
    assert before + rest.partition(b"</noscript>")[2] == PAGE


def test_other_answers_are_passed_on_as_they_come():
    status, headers, body, seen = ask("/gradio_api/queue/data")
    assert (status, body, seen) == (200, PAGE, True)
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert b"http" not in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring",
        "/monitoring/summary",
        "/gradio_api/proxy=https://example.org/x",
        "/gradio_api/file=https://example.org/x.png",
        "/gradio_api/vibe-edit/",
        "/gradio_api/deep_link",
        "/gradio_api/call/fuse",
        "/docs",
        "/openapi.json",
        "/nowhere",
    ],
)
def test_what_the_page_does_not_need_is_refused(path):
    status, _, body, seen = ask(path)
    assert (status, seen) == (404, False)
    assert body == b"There is nothing at this address."


@pytest.mark.parametrize("length", [b"1100000", b"99999999999", b"-1", b"many"])
def test_a_request_that_is_too_long_is_refused_before_it_is_read(length):
    path, headers = "/gradio_api/upload", [(b"content-length", length)]
    status, _, body, seen = ask(path, headers, upload=2**20)
    assert (status, seen) == (413, False) and b"more than the 1 MB" in body
    assert ask(path, [(b"content-length", b"1050000")], upload=2**20)[0] == 200


def test_other_protocols_are_passed_on():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Guard(app, 1)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
