"""Django on ASGI with a database, whose file ``$DATABASE`` names; see tests/e2e/test_e2e_asgi_frameworks.py."""

import os

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.signals import request_finished, request_started
from django.db import connection, models, transaction
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of a test",
    LOGGING_CONFIG=None,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()

seen = {"started": 0, "finished": 0, "closed": 0}
request_started.connect(lambda **_: seen.update(started=seen["started"] + 1), weak=False)
request_finished.connect(lambda **_: seen.update(finished=seen["finished"] + 1), weak=False)


class Note(models.Model):
    name = models.CharField(max_length=100)

    class Meta:
        app_label = "notes"


if Note._meta.db_table not in connection.introspection.table_names():
    with connection.schema_editor() as editor:
        editor.create_model(Note)
connection.close()


async def add(request):
    note = await Note.objects.acreate(name=(await sync_to_async(request.POST.dict)())["name"])
    return JsonResponse({"id": note.pk})


@transaction.atomic
def add_many(request):
    for number in range(10):
        Note.objects.create(name=str(number))
    return JsonResponse({"count": Note.objects.count()})


async def names(request):
    return JsonResponse([note.name async for note in Note.objects.order_by("pk")], safe=False)


async def generate():
    try:
        while True:
            yield "x" * 1000
            await Note.objects.acount()
    finally:
        seen["closed"] += 1


async def stored():
    try:
        while True:
            note = await Note.objects.afirst()
            yield f"{note.name}\n" * 1000
    finally:
        seen["closed"] += 1


def endless(request):
    return StreamingHttpResponse(stored())


def generated(request):
    return StreamingHttpResponse(generate())


async def state(request):
    return JsonResponse({**seen, "open": await sync_to_async(lambda: connection.connection is not None)()})


async def fails(request):
    await Note.objects.acount()
    raise ZeroDivisionError


def hello(request):
    return HttpResponse("hello")


urlpatterns = [
    path(view.__name__, view) for view in (add, add_many, names, endless, generated, state, fails, hello)
]  # fmt: skip
app = get_asgi_application()
