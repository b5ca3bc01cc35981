"""Channels over HTTP and WebSocket, beside Django; see tests/e2e/test_e2e_asgi_frameworks.py."""

import asyncio

from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, WebsocketConsumer
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


class Room(AsyncJsonWebsocketConsumer):
    """The layer of channels passes on what a client says, and with which code another one has left."""

    groups = ("room",)

    async def connect(self):
        self.name = self.scope["url_route"]["kwargs"]["name"]
        if self.name == "nobody":
            await self.close()
            return
        await self.accept(self.scope["subprotocols"][0] if self.scope["subprotocols"] else None)
        await self.channel_layer.group_send("room", {"type": "told", "text": f"{self.name} has come"})

    async def receive_json(self, content):
        await self.channel_layer.group_send("room", {"type": "told", "text": f"{self.name}: {content}"})

    async def disconnect(self, code):
        await self.channel_layer.group_send("room", {"type": "told", "text": f"{self.name} has left: {code}"})

    async def told(self, event):
        await self.send_json(event["text"])


class Echoing(WebsocketConsumer):
    """Runs in a thread."""

    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data, bytes_data)
        if text_data == "bye":
            self.close(4000)


rooms = URLRouter([path("room/<name>", Room.as_asgi()), path("echoing", Echoing.as_asgi())])
urls = [path("echo", Echo.as_asgi()), path("pieces", Pieces.as_asgi()), path("events", Events.as_asgi())]
app = ProtocolTypeRouter(
    {"http": URLRouter([*urls, path("left", Left.as_asgi()), re_path("", django_app)]), "websocket": rooms}
)
