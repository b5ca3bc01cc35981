"""The four routes that every framework here serves; see tests/test_e2e_frameworks.py."""

import json as json_module

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of a test", LOGGING_CONFIG=None)
django.setup()


def hello(request):
    return HttpResponse(f"Hello {request.GET['name']}!")


def form(request):
    return JsonResponse(request.POST.dict())


def json(request):
    return JsonResponse(json_module.loads(request.body))


def stream(request):
    return StreamingHttpResponse((f"{number}\n" for number in range(1000)), content_type="text/plain")


urlpatterns = [path("hello", hello), path("form", form), path("json", json), path("stream", stream)]
app = get_wsgi_application()
