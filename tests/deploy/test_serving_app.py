"""Requests to the serving application: what is answered, and what is refused by which status."""

from __future__ import annotations

import asyncio
import io
import json
import re

import httpx2
import numpy as np
import pytest
import torch
from exported import CLASSES, digits
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving import app_of, base64_of, classify_alone, exported_folder, file_of, load
from starlette.testclient import TestClient

from deploy.serving_requests import Limits

PIXELS = digits()[0][:5, 0].numpy()
FILES = [file_of(pixels) for pixels in PIXELS]
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
SMALL = Limits(body_bytes=20_000, pixels=10_000, images=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(exported_folder(tmp_path_factory.mktemp("serving")))


@pytest.fixture(scope="module")
def client(model):
    with TestClient(app_of(model)) as client:
        yield client


@pytest.fixture(scope="module")
def small(model):
    with TestClient(app_of(model, limits=SMALL)) as client:
        yield client


@pytest.fixture(scope="module")
def expected(model):
    """Probabilities of the images, as the network itself gives them."""
    with torch.inference_mode():
        logits = model.classifier.form(torch.from_numpy(PIXELS)[:, None].float() / 255)
    return logits.double().softmax(dim=1).numpy()


def as_raw(client):
    answers = [client.post("/predict", content=file, headers=PNG) for file in FILES]
    return [answer.json() for answer in answers]


def as_form(client):
    files = [("file", (f"{i}.png", file, "image/png")) for i, file in enumerate(FILES)]
    return [client.post("/predict", files=files).json()]


def as_base64(client):
    return [client.post("/predict", json={"images": [base64_of(f) for f in FILES]}).json()]


def as_lists(client):
    return [client.post("/predict", json={"images": PIXELS.tolist()}).json()]


def as_lists_with_channels_one_by_one(client):
    bodies = [{"image": pixels[..., None].astype(float).tolist()} for pixels in PIXELS]
    return [client.post("/predict", json=body).json() for body in bodies]


@pytest.mark.parametrize(
    "send", [as_raw, as_form, as_base64, as_lists, as_lists_with_channels_one_by_one]
)
def test_however_images_are_sent_the_answer_is_the_networks(client, expected, send) -> None:
    answers = send(client)
    assert {(answer["model"], answer["version"]) for answer in answers} == {("digits", 3)}
    found = [one for answer in answers for one in answer["predictions"]]
    for one, probabilities in zip(found, expected, strict=True):
        assert one["label"] == CLASSES[probabilities.argmax()]
        assert one["probability"] == one["probabilities"][one["label"]]
        values = [one["probabilities"][name] for name in CLASSES]
        assert values == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert list(one["probabilities"].values()) == sorted(values, reverse=True)


def test_other_sizes_and_colours_are_prepared_as_by_pas_predict(client, model, tmp_path) -> None:
    rng = np.random.default_rng(0)
    for kind, shape in (("JPEG", (40, 24, 3)), ("PNG", (9, 31)), ("BMP", (8, 8, 3))):
        path = tmp_path / f"image.{kind.lower()}"
        path.write_bytes(file_of(rng.integers(0, 256, shape, np.uint8), kind))
        (want,) = model.classifier.classify([path], unreadable=pytest.fail)
        (one,) = client.post("/predict", content=path.read_bytes(), headers=PNG).json()[
            "predictions"
        ]
        assert (one["label"], one["probability"]) == (want.label, pytest.approx(want.probability))


def test_top_gives_the_likeliest_classes_alone(client) -> None:
    every = client.post("/predict", content=FILES[0], headers=PNG).json()["predictions"][0]
    three = client.post("/predict?top=3", content=FILES[0], headers=PNG).json()["predictions"][0]
    assert list(three["probabilities"].items()) == list(every["probabilities"].items())[:3]
    more = client.post("/predict?top=99", content=FILES[0], headers=PNG).json()["predictions"][0]
    assert more == every


def test_what_is_served_is_described(client) -> None:
    assert client.get("/").json() == client.get("/model").json()
    described = client.get("/model").json()
    assert (described["model"], described["version"]) == ("digits", 3)
    assert described["classes"] == CLASSES
    assert (described["image_size"], described["channels"]) == (8, 1)
    assert (described["accuracy"], described["engine"]) == (0.75, "torch")
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json() == {"status": "ready"}


def test_without_a_model_it_is_alive_but_not_ready() -> None:
    with TestClient(app_of(None)) as client:
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), client.post("/predict", content=b"", headers=PNG)):
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "1"


def in_json(document: object) -> dict:
    return {"content": json.dumps(document), "headers": JSON}


DEEP = "[" * 100_000
BAD = {
    "no image file": ({"content": b"no image", "headers": PNG}, 422, "cannot be decoded"),
    "cut short": ({"content": FILES[0][:40], "headers": PNG}, 422, "cannot be decoded"),
    "empty": ({"content": b"", "headers": PNG}, 422, "cannot be decoded"),
    "a risky format": (
        {"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "headers": PNG},
        422,
        "send one of BMP, JPEG",
    ),
    "another type": (
        {"content": b"x", "headers": {"Content-Type": "text/plain"}},
        415,
        "content type 'text/plain' is not read",
    ),
    "no type": ({"content": b"x"}, 415, "content type '' is not read"),
    "compressed": (
        {"content": b"x", "headers": {**PNG, "Content-Encoding": "gzip"}},
        415,
        "the body is compressed",
    ),
    "no JSON": ({"content": b"{", "headers": JSON}, 400, "is not JSON"),
    "no UTF-8": ({"content": b"\xff\xfe\x00", "headers": JSON}, 400, "is not JSON"),
    "deep JSON": ({"content": DEEP, "headers": JSON}, 400, "is not JSON"),
    "a huge number": (
        {"content": '{"image": [[%s]]}' % ("9" * 5000), "headers": JSON},
        400,
        "is not JSON",
    ),
    "other JSON": (in_json([1]), 422, "the JSON is no request"),
    "other keys": (in_json({"image": [[0]], "more": 1}), 422, "the JSON is no request"),
    "no list": (in_json({"images": 5}), 422, "images is not a list"),
    "no images": (in_json({"images": []}), 422, "there is no image"),
    "not base64": (in_json({"image": "!!"}), 422, "not the base64 of a file"),
    "NaN": (in_json({"image": [[float("nan")]]}), 422, "has the value NaN"),
    "infinity": (in_json({"image": [[float("-inf")]]}), 422, "has the value -Infinity"),
    "overflow": ({"content": '{"image": [[1e999]]}', "headers": JSON}, 422, "are no pixels"),
    "fractions": (in_json({"image": [[0.5]]}), 422, "are no pixels"),
    "negative": (in_json({"image": [[-1]]}), 422, "are no pixels"),
    "too bright": (in_json({"image": [[256]]}), 422, "are no pixels"),
    "beyond 64 bits": (in_json({"image": [[2**70]]}), 422, "does not consist of numbers"),
    "long text in lists": (
        in_json({"image": [["x" * 10**6, *[""] * 10**4]]}),  # 40 GB as an array of texts
        *(422, "does not consist of numbers"),
    ),
    "deep lists": (in_json({"image": [[[[[1]]]]]}), 422, "does not consist of numbers"),
    "truth in lists": (in_json({"image": [[True]]}), 422, "does not consist of numbers"),
    "text in lists": (in_json({"image": [["1"]]}), 422, "does not consist of numbers"),
    "nothing in lists": (in_json({"image": [[None]]}), 422, "does not consist of numbers"),
    "ragged": (in_json({"image": [[1, 2], [3]]}), 422, "rows of unequal lengths"),
    "colours for grey": (in_json({"image": [[[1, 2, 3]]]}), 422, "has the shape (1, 1, 3)"),
    "a number": (in_json({"image": 7}), 422, "has the shape ()"),
    "empty rows": (in_json({"image": [[]]}), 422, "has the shape (1, 0, 1)"),
    "which of them": (in_json({"images": [[[1]], [[300]]]}), 422, "image 1 has values"),
    "no boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "the form cannot be read",
    ),
    "no form": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        400,
        "the form cannot be read",
    ),
    "a form with text": (
        {"data": {"a": "b"}, "files": {"f": FILES[0]}},
        422,
        "a field that is not a file",
    ),
    "a form without files": (
        {"content": b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        422,
        "there is no image",
    ),
}


@pytest.mark.parametrize(("request_", "status", "words"), BAD.values(), ids=BAD)
def test_bad_requests_are_refused_in_one_sentence(client, request_, status, words) -> None:
    answer = client.post("/predict", **request_)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("top", ["0", "-1", "x", "1e3", "", "٣", "9" * 5000])
def test_top_is_a_number(client, top) -> None:
    answer = client.post("/predict", params={"top": top}, content=FILES[0], headers=PNG)
    assert answer.status_code == 422
    assert "it is a number of classes" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/x", 404), ("PUT", "/", 405)]
)
def test_other_paths_and_methods_are_refused_in_json(client, method, path, status) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert "POST /predict" in answer.json()["error"]


def test_bodies_are_limited_whether_they_tell_their_length_or_not(small) -> None:
    def pieces():
        for _ in range(30):
            yield bytes(1000)

    for content in (bytes(30_000), pieces()):
        answer = small.post("/predict", content=content, headers=PNG)
        assert answer.status_code == 413
        assert "at most 20000 bytes" in answer.json()["error"]


def black(width: int, height: int) -> bytes:
    """A file that is far smaller than what it unpacks to."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height"), [(101, 100), (1, 9_000), (9_000, 1), (20_000, 20_000)]
)
def test_images_of_too_many_pixels_are_refused_before_they_are_unpacked(model, width, height):
    """Long and narrow ones too, which would be huge once their shorter side has 8 pixels."""
    limits = Limits(pixels=10_000)
    with TestClient(app_of(model, limits=limits)) as client:
        answer = client.post("/predict", content=black(width, height), headers=PNG)
        assert answer.status_code == 413
        assert "at most 10000 pixels" in answer.json()["error"]
        assert client.post("/predict", content=black(100, 100), headers=PNG).status_code == 200


def test_lists_of_too_many_pixels_are_refused(small) -> None:
    answer = small.post("/predict", json={"image": [[0] * 1] * 5_000})
    assert answer.status_code == 413


def test_too_many_images_are_refused_in_a_form_and_in_json(small) -> None:
    files = [("f", ("x.png", FILES[0], "image/png"))] * 4
    for answer in (
        small.post("/predict", files=files),
        small.post("/predict", json={"images": [[[0]]] * 4}),
    ):
        assert answer.status_code == 413
        assert "at most 3 in one request" in answer.json()["error"]


@given(
    st.sampled_from(["image/png", "application/json", "multipart/form-data; boundary=b", "a/b"]),
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=50).map(str.encode),
        st.tuples(st.sampled_from(FILES), st.integers(0, 60), st.binary(max_size=8)).map(
            lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=4),
        ).map(lambda image: json.dumps({"image": image}).encode()),
        st.binary(max_size=40).map(
            lambda part: (
                b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
                + part
                + b"\r\n--b--\r\n"
            )
        ),
    ),
)
def test_nothing_that_is_sent_is_an_error_of_the_server(client, kind, body) -> None:
    answer = client.post("/predict", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500
    assert answer.json().keys() in ({"error"}, {"model", "version", "predictions"})


def test_an_error_of_the_server_says_nothing_of_its_inside(model) -> None:
    async def broken(job):
        raise RuntimeError("secret")

    with TestClient(app_of(model, classify=broken), raise_server_exceptions=False) as client:
        answer = client.post("/predict", content=FILES[0], headers=PNG)
        told = client.get("/metrics").text
    assert metric(told, 'pas_serve_requests_total{path="/predict",status="500"}') == 1
    assert metric(told, "pas_serve_request_seconds_count") == 1
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server met an error of its own, which its log tells of"}


@pytest.mark.parametrize(
    ("header", "lets_in"),
    [
        (None, False),
        ("Bearer a-tokeN", False),
        ("Bearer ", False),
        ("a-token", False),
        ("Basic a-token", False),
        ("Bearer ä", False),
        ("Bearer a-token", True),
        ("bearer a-token", True),
    ],
)
def test_a_token_lets_in(model, header, lets_in) -> None:
    with TestClient(app_of(model, token="a-token")) as client:  # noqa: S106
        headers = {} if header is None else {"Authorization": header.encode()}
        for path in ("/", "/model", "/metrics", "/nothing"):
            answer = client.get(path, headers=headers)
            assert (answer.status_code != 401) == lets_in, path
            assert lets_in or answer.headers["WWW-Authenticate"] == "Bearer"
        predicted = client.post("/predict", content=FILES[0], headers={**PNG, **headers})
        assert predicted.status_code == (200 if lets_in else 401)
        for path in ("/health", "/ready"):
            assert client.get(path).status_code == 200


def metric(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_what_has_happened(model) -> None:
    with TestClient(app_of(model)) as client:
        for _ in range(3):
            client.post("/predict", content=FILES[0], headers=PNG)
        client.post("/predict", json={"images": PIXELS.tolist()})
        client.post("/predict", content=b"", headers=PNG)
        client.get("/anything/that/is/asked")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    counted = 'pas_serve_requests_total{path="%s",status="%s"}'
    assert metric(answer.text, counted % ("/predict", 200)) == 4
    assert metric(answer.text, counted % ("/predict", 422)) == 1
    assert metric(answer.text, counted % ("other", 404)) == 1
    assert metric(answer.text, "pas_serve_request_seconds_count") == 5
    assert metric(answer.text, "pas_serve_batch_images_count") == 4
    assert metric(answer.text, "pas_serve_batch_images_sum") == 8
    assert metric(answer.text, 'pas_serve_batch_images_bucket{le="1.0"}') == 3


def together(app, *requests):
    """Send requests at the same time; return the answers in order."""

    async def send_all():
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await asyncio.gather(*(client.request(**request) for request in requests))

    return asyncio.run(send_all())


PREDICT = {"method": "POST", "url": "/predict", "content": FILES[0], "headers": PNG}


def test_beyond_its_limit_the_server_says_when_to_come_again(model) -> None:
    async def slow(job):
        await asyncio.sleep(0.3)
        return await classify_alone(job)

    app = app_of(model, limits=Limits(requests=2), classify=slow)
    for _ in range(2):  # there is room again after the first time
        *answers, health = together(app, *[PREDICT] * 5, {"method": "GET", "url": "/health"})
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
        assert health.status_code == 200
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.headers["Retry-After"] == "1"
        assert "too many requests" in refused.json()["error"]


def test_bodies_are_limited_all_together(model) -> None:
    app = app_of(model, limits=Limits(held_bytes=len(FILES[0]) + 5))
    (alone,) = together(app, PREDICT)
    assert alone.status_code == 200
    big = {**PREDICT, "content": bytes(2 * len(FILES[0]))}
    (refused,) = together(app, big)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    (alone,) = together(app, PREDICT)
    assert alone.status_code == 200


def test_who_sends_too_slowly_and_who_waits_too_long_are_told(model) -> None:
    async def never(job):
        await asyncio.sleep(60)

    async def trickle():
        yield FILES[0][:10]
        await asyncio.sleep(60)

    app = app_of(model, limits=Limits(timeout_s=0.1), classify=never)
    late, slow = together(app, PREDICT, {**PREDICT, "content": trickle()})
    assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
    assert "did not classify within 0.1 s" in late.json()["error"]
    assert slow.status_code == 408
    assert "did not arrive within 0.1 s" in slow.json()["error"]
