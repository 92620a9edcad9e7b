"""A W&B server on this machine: the few calls that the client makes, answered and remembered."""

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

import yaml

HISTORY, EVENTS = "wandb-history.jsonl", "wandb-events.jsonl"
SUMMARY = "wandb-summary.json"
VIEWER = {"id": "u", "entity": "us", "username": "us", "teams": {"edges": []}}
CONSTANT = {
    "Viewer": {"viewer": VIEWER},
    "GetDefaultEntity": {"viewer": VIEWER},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": {"entity": None},
    "ArtifactType": {"project": {"artifact": None}},
}


def _project(name):
    return {"id": "p", "name": name, "entity": {"id": "e", "name": "us"}}


class Run:
    """What the server knows of one run."""

    def __init__(self, name):
        self.name = name
        self.settings = {}
        self.config = {}
        self.summary = {}
        self.lines = {}
        self.exit_code = None
        self.artifacts = []

    @property
    def history(self):
        """The rows that arrived, in order."""
        lines = self.lines.get(HISTORY, {})
        assert sorted(lines) == list(range(len(lines))), "rows are missing"
        return [json.loads(lines[number]) for number in sorted(lines)]

    def tail(self, file):
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
        refused: How many calls were answered 503.
        sweep: What `wandb sweep` uploaded; an agent gets the values of its only parameter in turn.
        given: The value of each run that was given one, by the run's id.
        ended: The runs that an agent had and has no more.
    """

    def __init__(self):
        self.failing = False
        self.runs = {}
        self.files = {}
        self.views = {}
        self.refused = 0
        self.sweep, self.given, self.ended = {}, {}, []
        self.unknown = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), False)
        self._server.daemon_threads = True
        self._server.server_bind()  # the port is ours, but nobody listens yet
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def start(self):
        """Answer from now on."""
        self._server.server_activate()
        self._thread.start()

    def stop(self):
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def answer(self, method, path, body):
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

    def _graphql(self, request):
        call = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        if call in CONSTANT:
            return CONSTANT[call]
        handler = getattr(self, f"_on_{call}", None)
        if handler is None:
            self.unknown.append(call)
            return {}
        return handler(request.get("variables") or {})

    def _on_RunResumeStatus(self, values):  # noqa: N802
        run = self.runs.get(values["name"])
        bucket = run and self._bucket(run, values["project"]) | {
            "summaryMetrics": json.dumps(run.summary),
            "tags": run.settings.get("tags"),
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
            "logLineCount": 0,
            "historyTail": run.tail(HISTORY),
            "eventsLineCount": len(run.lines.get(EVENTS, {})),
            "eventsTail": run.tail(EVENTS),
        }
        return {"model": _project(values["project"]) | {"bucket": bucket}}

    def _on_UpsertBucket(self, values):  # noqa: N802
        new = values["name"] not in self.runs
        run = self.runs.setdefault(values["name"], Run(values["name"]))
        run.settings |= {key: value for key, value in values.items() if value is not None}
        if values["config"]:
            run.config = json.loads(values["config"])
        return {"upsertBucket": {"bucket": self._bucket(run, values["project"]), "inserted": new}}

    def _bucket(self, run, project):
        return {
            "id": "b",
            "name": run.name,
            "displayName": run.settings.get("displayName"),
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": run.settings.get("sweep"),
            "project": _project(project),
            "historyLineCount": len(run.lines.get(HISTORY, {})),
        }

    def _on_CreateRunFiles(self, values):  # noqa: N802
        upload = f"{self.url}/upload/{values['run']}"
        files = [{"name": each, "uploadUrl": f"{upload}/{quote(each)}"} for each in values["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}

    def _on_CreateArtifact(self, values):  # noqa: N802
        given = values["input"]
        self.runs[given["runName"]].artifacts.append(given["artifactCollectionName"])
        # Committed: as if it had the content already, so that no upload follows.
        sequence = {"latestArtifact": {"id": "a"}}
        return {
            "createArtifact": {
                "artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
            }
        }

    def _on_UpsertView2(self, values):  # noqa: N802
        self.views[values["name"]] = values
        return {"upsertView": {"view": {"id": "v", "name": values["name"]}, "inserted": True}}

    # ------------------------------------------------------------------ a sweep

    def _on_UpsertSweep(self, values):  # noqa: N802
        self.sweep = yaml.safe_load(values["config"])
        ((self._key, choices),) = self.sweep["parameters"].items()
        self._left = list(choices["values"])
        sweep = {"name": "sweep1", "project": _project("lrm_lightning")}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _on_SweepWithRuns(self, values):  # noqa: N802
        named = [values[each] for each in ("entity", "project", "sweep")]
        assert named == ["us", "lrm_lightning", "sweep1"]
        sweep = {"name": "sweep1", "config": yaml.dump(self.sweep), "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _on_CreateAgent(self, values):  # noqa: N802
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def _on_Heartbeat(self, values):  # noqa: N802
        running = json.loads(values["runState"])
        self.ended = [name for name in self.given if name not in running]
        commands = [] if running else [self._next()]
        agent = {"id": values["id"]}
        return {"agentHeartbeat": {"agent": agent, "commands": json.dumps(commands)}}

    def _next(self):
        if not self._left:
            return {"type": "exit"}
        name = f"agents{len(self.given) + 1}"
        self.given[name] = self._left.pop(0)
        command = {"type": "run", "run_id": name, "program": self.sweep["program"]}
        return command | {"args": {self._key: {"value": self.given[name]}}}

    # ------------------------------------------------------------------ files

    def _file_stream(self, name, request):
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

    def _handler(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:  # a client that was killed
                    self.close_connection = True

            def reply(self):
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

            def log_message(self, *arguments):
                pass

        return Handler
