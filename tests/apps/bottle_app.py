"""The four routes that every framework here serves; see tests/test_e2e_frameworks.py."""

from bottle import Bottle, request, response

app = Bottle()


@app.get("/hello")
def hello():
    return f"Hello {request.query.getunicode('name')}!"


@app.post("/form")
def form():
    return dict(request.forms.decode())


@app.post("/json")
def json():
    return request.json


@app.get("/stream")
def stream():
    response.content_type = "text/plain"
    for number in range(1000):
        yield b"%d\n" % number
