"""A debugger's side of the debug adapter protocol, as far as attaching, one breakpoint and going on need it."""

import json
import socket
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 30


class DebugClient:
    """Speaks to debugpy over its socket. See the Debug Adapter Protocol, "Base protocol"."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self._stream = self._socket.makefile("rwb")
        self._sequence = 0

    def attach(self, file: Path, line: int) -> None:
        """Attach with one breakpoint; the program goes on after this."""
        self._ask("initialize", adapterID="python", pathFormat="path", linesStartAt1=True)
        self._receive(lambda message: message.get("command") == "initialize")
        self._ask("attach", justMyCode=False)
        self._receive(lambda message: message.get("event") == "initialized")
        self._ask("setBreakpoints", source={"path": str(file)}, breakpoints=[{"line": line}])
        self._ask("configurationDone")
        self._receive(lambda message: message.get("command") == "attach" and message["success"])

    def stopped_at(self) -> tuple[Path, int]:
        """Wait until the breakpoint holds the program; returns where."""
        stop = self._receive(lambda message: message.get("event") == "stopped")
        self._ask("stackTrace", threadId=stop["body"]["threadId"], levels=1)
        trace = self._receive(lambda message: message.get("command") == "stackTrace")
        frame = trace["body"]["stackFrames"][0]
        self._thread = stop["body"]["threadId"]
        return Path(frame["source"]["path"]), frame["line"]

    def go_on(self) -> None:
        """Let the program run to its end, and hang up: the debugger's helper process stays while we listen."""
        self._ask("continue", threadId=self._thread)
        self._receive(lambda message: message.get("event") == "terminated")
        self._stream.close()
        self._socket.close()

    def _ask(self, command: str, **arguments: Any) -> None:
        self._sequence += 1
        message = {"seq": self._sequence, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self._stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._stream.flush()

    def _receive(self, wanted: Any) -> dict[str, Any]:
        while True:
            length = 0
            while header := self._stream.readline().strip():
                length = int(header.split(b":")[1])
            assert length, "debugpy closed the connection"
            message: dict[str, Any] = json.loads(self._stream.read(length))
            if wanted(message):
                return message
