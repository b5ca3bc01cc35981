"""The four routes that every framework here serves; see tests/test_e2e_frameworks.py."""

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.get("/hello")
def hello():
    return f"Hello {request.args['name']}!"


@app.post("/form")
def form():
    return jsonify(request.form.to_dict())


@app.post("/json")
def json():
    return jsonify(request.get_json())


@app.get("/stream")
def stream():
    return Response((f"{number}\n" for number in range(1000)), mimetype="text/plain")
