"""The four routes that every framework here serves; see tests/test_e2e_frameworks.py."""

import falcon


class Hello:
    def on_get(self, request, response):
        response.text = f"Hello {request.get_param('name')}!"


class Media:
    """Falcon reads forms and JSON by their content type alike."""

    def on_post(self, request, response):
        response.media = request.get_media()


class Stream:
    def on_get(self, request, response):
        response.content_type = "text/plain"
        response.stream = (b"%d\n" % number for number in range(1000))


app = falcon.App()
app.add_route("/hello", Hello())
app.add_route("/form", Media())
app.add_route("/json", Media())
app.add_route("/stream", Stream())
