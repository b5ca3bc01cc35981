"""The Flask application; apart from the others, which do not pay for the import."""

from flask import Flask

from .apps import HELLO

app = Flask(__name__)


@app.get("/")
@app.get("/shop/item-<int:number>/view")
def hello(number: int = 0) -> tuple[bytes, dict[str, str]]:
    return HELLO, {"Content-Type": "text/plain; charset=utf-8"}
