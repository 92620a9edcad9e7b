"""A W&B server on this machine: the few calls that the client makes, answered and remembered."""

import gzip
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


class Run:
    """What the server knows of one run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.lines: dict[str, dict[int, str]] = {}
        self.exit_code: int | None = None
        self.artifacts: list[str] = []

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows that arrived, in order."""
        lines = self.lines.get(HISTORY, {})
        assert sorted(lines) == list(range(len(lines))), "rows are missing"
        return [json.loads(lines[number]) for number in sorted(lines)]

    def tail(self, file: str) -> str:
        """The last line, as the server gives it to a client that resumes."""
        lines = self.lines.get(file, {})
        return json.dumps([lines[max(lines)]] if lines else [])


class WandbServer:
    """Listens on a port of its own once it is started.

    Attributes:
        failing: While true, it answers 503 to everything.
        runs: By id.
        files: What was uploaded, by path.
        views: The workspaces that were made, by name.
        calls: How often each call was made, refused ones not counted.
        refused: How many calls were answered 503.
    """

    def __init__(self) -> None:
        self.failing = False
        self.runs: dict[str, Run] = {}
        self.files: dict[str, bytes] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.refused = 0
        self.unknown: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), False)
        self._server.daemon_threads = True
        self._server.server_bind()  # the port is ours, but nobody listens yet
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def start(self) -> None:
        """Answer from now on."""
        self._server.server_activate()
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and content for a request."""
        with self._lock:
            if self.failing:
                self.refused += 1
                return 503, {}
            if path == "/graphql":
                return 200, {"data": self._graphql(json.loads(body))}
            if path.endswith("/file_stream"):
                return 200, self._file_stream(path.split("/")[-2], json.loads(body))
            if method == "PUT" and path.startswith("/upload/"):
                self.files[unquote(path.removeprefix("/upload/"))] = body
                return 200, {}
            self.unknown.append(f"{method} {path}")
            return 404, {}

    # ------------------------------------------------------------------ the calls

    def _graphql(self, request: dict[str, Any]) -> Any:
        match = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        assert match is not None
        call, values = match[1], request.get("variables") or {}
        self.calls[call] += 1
        handler = getattr(self, f"_on_{call}", None)
        if handler is None:
            self.unknown.append(call)
            return {}
        return handler(values)

    def _on_Viewer(self, values: dict[str, Any]) -> Any:  # noqa: N802
        teams = {"edges": []}
        return {"viewer": {"id": "u", "entity": "us", "username": "us", "teams": teams}}

    def _on_GetDefaultEntity(self, values: dict[str, Any]) -> Any:  # noqa: N802
        return {"viewer": {"id": "u", "entity": "us"}}

    def _on_ServerFeaturesQuery(self, values: dict[str, Any]) -> Any:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _on_OrganizationCoreWeaveOrganizationID(self, values: dict[str, Any]) -> Any:  # noqa: N802
        return {"entity": None}

    def _on_RunResumeStatus(self, values: dict[str, Any]) -> Any:  # noqa: N802
        run = self.runs.get(values["name"])
        project = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": "us"}}
        bucket = run and {
            "id": "b",
            "name": run.name,
            "displayName": run.settings.get("displayName"),
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps(run.config),
            "tags": run.settings.get("tags"),
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
            "logLineCount": 0,
            "historyLineCount": len(run.lines.get(HISTORY, {})),
            "historyTail": run.tail(HISTORY),
            "eventsLineCount": len(run.lines.get("wandb-events.jsonl", {})),
            "eventsTail": run.tail("wandb-events.jsonl"),
        }
        return {"model": project | {"bucket": bucket}}

    def _on_UpsertBucket(self, values: dict[str, Any]) -> Any:  # noqa: N802
        new = values["name"] not in self.runs
        run = self.runs.setdefault(values["name"], Run(values["name"]))
        run.settings |= {key: value for key, value in values.items() if value is not None}
        if values["config"]:
            run.config = json.loads(values["config"])
        project = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": "us"}}
        bucket = {
            "id": "b",
            "name": run.name,
            "displayName": run.settings.get("displayName"),
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": run.settings.get("sweep"),
            "project": project,
            "historyLineCount": len(run.lines.get(HISTORY, {})),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _on_CreateRunFiles(self, values: dict[str, Any]) -> Any:  # noqa: N802
        files = [
            {"name": name, "uploadUrl": self._upload(f"{values['run']}/{name}")}
            for name in values["files"]
        ]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}

    def _on_ArtifactType(self, values: dict[str, Any]) -> Any:  # noqa: N802
        return {"project": {"artifact": None}}

    def _on_CreateArtifact(self, values: dict[str, Any]) -> Any:  # noqa: N802
        given = values["input"]
        self.runs[given["runName"]].artifacts.append(given["artifactCollectionName"])
        # Committed: as if it had the content already, so that no upload follows.
        sequence = {"latestArtifact": {"id": "a"}}
        return {
            "createArtifact": {
                "artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
            }
        }

    def _on_UpsertView2(self, values: dict[str, Any]) -> Any:  # noqa: N802
        self.views[values["name"]] = values
        return {"upsertView": {"view": {"id": "v", "name": values["name"]}, "inserted": True}}

    def _file_stream(self, name: str, request: dict[str, Any]) -> Any:
        self.calls["file_stream"] += 1
        run = self.runs[name]
        for file, part in request.get("files", {}).items():
            if file == SUMMARY:
                run.summary = json.loads(part["content"][-1])
            else:
                lines = run.lines.setdefault(file, {})
                lines |= dict(enumerate(part["content"], part["offset"]))
        if request.get("complete"):
            run.exit_code = request["exitcode"]
        return {}

    def _upload(self, path: str) -> str:
        return f"{self.url}/upload/{quote(path)}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # a client that was killed
                    self.close_connection = True

            def reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status, content = outer.answer(self.command, self.path, body)
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = reply  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler
