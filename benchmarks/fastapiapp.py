"""Hello in FastAPI, as an example of a framework."""

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from .apps import HELLO

app = FastAPI()


@app.get("/{path:path}", response_class=PlainTextResponse)
async def hello(path: str) -> str:
    return HELLO.decode()
