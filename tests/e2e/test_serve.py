"""`mpi-spp serve` on three ranks, asked by OpenAI's own client and by clients that do not behave."""

import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import reciting_model
from mpirun import end, finish, mpi_spp, run, start

MODEL, KEY, MOST = "reciter", "secret", 8
TEXT = reciting_model.TEXT
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reciting_model.build(tmp_path_factory.mktemp("serve") / "model")


def serve(directory: Path, *arguments: str) -> Any:
    options = ["--model", str(directory), "--port", "0", "--served-model-name", MODEL, "--kernels", "plain"]
    return start([*mpi_spp("launch", "-np", "3", "--", "serve"), *options, *arguments])


def address_of(process: Any) -> str:
    """Once it listens."""
    for line in process.stderr:
        if b" serving " in line:
            return str(line.split(b" at ")[1].split(b";")[0].decode())
    raise AssertionError("it ended before it listened")


@pytest.fixture(scope="module")
def address(directory: Path) -> Iterator[str]:
    process = serve(directory, "--api-key", KEY, "--max-num-seqs", str(MOST), "--max-queue", "64")
    try:
        yield address_of(process)
    finally:
        end(process)


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60)


def ask(address: str, path: str, body: bytes | None = None, key: str = KEY) -> tuple[int, Any]:
    """The status and what was told, whatever it is."""
    request = urllib.request.Request(address + path, body, {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_chat(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(model=MODEL, messages=CHAT)  # type: ignore[arg-type]
    assert told.choices[0].message.content == TEXT and told.choices[0].finish_reason == "stop"
    assert told.usage is not None and told.usage.completion_tokens == len(TEXT.encode()) + 1


def test_a_chat_that_streams(client: openai.OpenAI) -> None:
    pieces = list(
        client.chat.completions.create(
            model=MODEL,
            messages=CHAT,
            stream=True,
            n=2,
            stream_options={"include_usage": True},  # type: ignore[arg-type]
        )
    )
    assert pieces[-1].usage is not None and pieces[-1].choices == []
    for number in (0, 1):
        of_choice = [one.choices[0] for one in pieces[:-1] if one.choices[0].index == number]
        assert of_choice[0].delta.role == "assistant" and of_choice[-1].finish_reason == "stop"
        assert "".join(one.delta.content or "" for one in of_choice) == TEXT
        assert len(of_choice) > 5


def test_completions_of_texts_and_of_ids(client: openai.OpenAI) -> None:
    told = client.completions.create(model=MODEL, prompt=["x", TEXT[:2]], max_tokens=3)
    assert [one.text for one in told.choices] == [TEXT[:3], TEXT[2:5]]
    assert {one.finish_reason for one in told.choices} == {"length"}
    ids = client.completions.create(model=MODEL, prompt=[1, 2, 3], max_tokens=2)
    assert ids.usage is not None and ids.usage.prompt_tokens == 3


def test_what_is_there(client: openai.OpenAI, address: str) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL == client.models.retrieve(MODEL).id
    status, ids = ask(address, "/tokenize", b'{"prompt": "abc"}')
    assert (status, json.loads(ids)["count"]) == (200, 3)
    assert json.loads(ask(address, "/detokenize", json.dumps({"tokens": json.loads(ids)["tokens"]}).encode())[1]) == {
        "prompt": "abc"
    }
    assert ask(address, "/health", key="wrong")[0] == 200


def test_many_at_once_get_what_each_gets_alone(client: openai.OpenAI) -> None:
    """More than are answered at once; each begins elsewhere in the text, and has a length of its own."""
    wanted = [(number % 9, number % 3, 1 + number % 2) for number in range(4 * MOST)]

    def one(wish: tuple[int, int, int]) -> str:
        before, place, count = wish
        told = client.completions.create(model=MODEL, prompt="x" * before + TEXT[place], max_tokens=count)
        return told.choices[0].text

    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(one, wanted))
    assert answers == [TEXT[place + 1 :][:count] for _, place, count in wanted]


@pytest.mark.parametrize(
    "path, body, status, says",
    [
        ("/v1/chat/completions", b"{", 400, "the body is not JSON"),
        ("/v1/chat/completions", b'{"messages": 7}', 400, "messages: is no list"),
        ("/v1/chat/completions", json.dumps({"model": "x", "messages": CHAT}).encode(), 404, "model: 'x' is not here"),
        ("/v1/completions", b'{"prompt": "a", "stop": "b"}', 400, "stop: cannot be had"),
        ("/v1/completions", json.dumps({"prompt": "a" * 5000}).encode(), 400, "positions"),
        ("/v1/completions", b" " * ((8 << 20) + 1), 413, "the body has more than 8388608 bytes"),
        ("/v1/completions", None, 405, "Method Not Allowed"),
        ("/v1/nothing", b"{}", 404, "Not Found"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_one_clear_error_each(address: str, path: str, body: bytes | None, status: int, says: str) -> None:
    found, told = ask(address, path, body)
    assert found == status and says in told["error"]["message"]


def test_who_has_no_key_is_not_let_in(address: str) -> None:
    for path in ("/v1/models", "/metrics", "/v1/chat/completions"):
        status, told = ask(address, path, key="secre")
        assert status == 401 and "API key" in told["error"]["message"]


def test_who_leaves_is_forgotten(address: str) -> None:
    """Before the answer is whole: by a closed socket, in the middle of a stream."""
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "x", "max_tokens": 3000, "ignore_eos": True, "stream": True}).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: a", f"Authorization: Bearer {KEY}", f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, "", ""])
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        assert b"200 OK" in connection.recv(1 << 12)
    deadline = time.monotonic() + 30
    while "mpi_spp_requests_running 0.0" not in ask(address, "/metrics")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_end_finishes_what_runs(directory: Path) -> None:
    """All ranks leave with status 0, and the stream is whole."""
    process, pieces = serve(directory, "--max-new-tokens", "600"), list[str]()
    address, began = address_of(process), threading.Event()

    def read() -> None:
        body = b'{"prompt": "x", "ignore_eos": true, "stream": true}'
        with urllib.request.urlopen(urllib.request.Request(f"{address}/v1/completions", body), timeout=60) as answer:
            for line in answer:
                pieces.append(line.decode())
                began.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(30)
    process.send_signal(signal.SIGTERM)
    reader.join(60)
    assert pieces[-2:] == ["data: [DONE]\n", "\n"] and '"finish_reason": "length"' in pieces[-4]
    assert finish(process, time.monotonic()).status == 0


def test_what_is_refused_before_anything_is_loaded(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, says in (
            (["--host", "0.0.0.0"], "--host: 0.0.0.0 lets others in without a key; give --api-key, or --insecure"),
            (["--port", port], f"--port: cannot listen at 127.0.0.1 port {port} (Address already in use)"),
            (["--mesh", "dp=1,pp=1", "--host", "no.such.host", "--insecure"], "--host: no.such.host is no address"),
        ):
            ended = run(mpi_spp("serve", "--model", str(directory), *arguments))
            assert ended.status == 2 and says in ended.stderr, ended.stderr
            assert len(ended.stderr.strip().splitlines()) == 1
