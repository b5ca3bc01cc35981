"""Channels over HTTP, beside Django; see tests/e2e/test_e2e_asgi_frameworks.py."""

import asyncio

from channels.generic.http import AsyncHttpConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path, re_path
from django_asgi import app as django_app

left = asyncio.Event()


class Echo(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_response(200, body, headers=[(b"content-type", b"text/plain")])


class Pieces(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_headers(headers=[(b"content-type", b"text/plain")])
        for number in range(5):
            await self.send_body(f"{number}\n".encode(), more_body=True)
            await asyncio.sleep(0.001)
        await self.send_body(b"")


class Events(AsyncHttpConsumer):
    """A stream without an end. Channels does not listen meanwhile, so it is ``send`` that tells of the client's end."""

    async def handle(self, body):
        await self.send_headers(headers=[(b"content-type", b"text/event-stream")])
        while True:
            await self.send_body(b"data: waits\n\n", more_body=True)
            await asyncio.sleep(0.01)

    async def disconnect(self):
        left.set()


class Left(AsyncHttpConsumer):
    async def handle(self, body):
        await asyncio.wait_for(left.wait(), 20)
        await self.send_response(200, b"left")


urls = [path("echo", Echo.as_asgi()), path("pieces", Pieces.as_asgi()), path("events", Events.as_asgi())]
app = ProtocolTypeRouter({"http": URLRouter([*urls, path("left", Left.as_asgi()), re_path("", django_app)])})
