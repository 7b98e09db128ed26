"""The documents say what the code does, as far as a machine can tell.

Diagrams come from the tables, links lead somewhere, and every command, error, message, exit code, file and
function that a document names exists. The one snippet that users will copy is run against a server that
breaks connections and counts what arrives.
"""

import ast
import importlib
import importlib.util
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hiredis
import pytest

from cluster import errors
from cluster.errors import Outcome, ReplyError

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("scenarios/*.md")])
DECISION_PARTS = [
    "Context",
    "Decision",
    "Alternatives",
    "Consequences",
    "How we would notice that we were wrong",
]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_code(text))


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    part = text[text.index(f"# {heading}\n") :]
    lines = [
        line for line in part[part.index("\n|") + 1 :].split("\n\n")[0].splitlines() if line.startswith("|")
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")


def load_diagrams() -> ModuleType:
    spec = importlib.util.spec_from_file_location("azimuth_diagrams", ROOT / "docs" / "diagrams.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- diagrams and links ------------------------------------------------------------------------------------


def test_the_state_diagrams_are_those_of_the_transition_tables() -> None:
    protocol = text_of("docs/protocol.md")
    assert load_diagrams().with_blocks(protocol) == protocol, "run: python docs/diagrams.py --write"


def test_every_state_is_explained() -> None:
    from cluster.shard.replica import Serving

    rows = table_rows(text_of("docs/protocol.md"), "What a node does for clients")
    assert [row[0] for row in rows] == [serving.value for serving in Serving]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (document.parent / name).resolve() if name else document
        assert found.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", without_code(found.read_text(encoding="utf-8")), re.M)
            assert anchor in [slug(heading) for heading in headings], f"{target}: no such heading"


def test_every_decision_has_its_five_parts_and_is_listed() -> None:
    listed = text_of("docs/decisions/README.md")
    records = sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
    assert records
    for number, record in enumerate(records, start=1):
        text = record.read_text(encoding="utf-8")
        assert record.name.startswith(f"{number:03}-")
        assert f"({record.name})" in listed
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.+)$", text, re.M) == DECISION_PARTS, record.name


# -- what documents name, exists ---------------------------------------------------------------------------


def members_by_class() -> dict[str, set[str]]:
    """Names that each class of ours defines, `self.name` included; read, not imported."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "cluster").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = found.setdefault(node.name, set())
                for inner in ast.walk(node):
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        names.add(inner.name)
                    elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                        names.add(inner.id)
                    elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                        names.add(inner.attr)
    return found


def test_functions_named_in_the_documents_exist() -> None:
    classes = members_by_class()
    named = 0
    for document in DOCUMENTS:
        for span in code_spans(document.read_text(encoding="utf-8")):
            match = re.fullmatch(r"([A-Z][A-Za-z]+)\.([a-z_]+)(?:\(.*\))?", span)
            if match is not None and match[2] != "md":
                named += 1
                assert match[1] in classes, f"{document.name}: no class {match[1]}"
                assert match[2] in classes[match[1]], f"{document.name}: {match[1]} has no {match[2]}"
    assert named > 20


def test_files_named_in_the_documents_exist() -> None:
    for document in DOCUMENTS:
        for span in code_spans(document.read_text(encoding="utf-8")):
            if re.fullmatch(r"(cluster|cli|docs|proto|tests|scenarios|benchmarks)/[\w/.-]*", span):
                assert (ROOT / span).exists(), f"{document.name} names {span}"


def test_every_message_and_call_of_the_proto_files_is_in_the_protocol() -> None:
    protocol = text_of("docs/protocol.md")
    body = re.search(r"oneof body \{(.*?)\}", text_of("proto/raft.proto"), re.S)
    assert body is not None
    messages = re.findall(r"^\s*(\w+) \w+ = \d+;", body[1], re.M)
    calls = re.findall(r"rpc (\w+)\(", text_of("proto/admin.proto"))
    assert messages and calls
    for name in [*messages, *calls]:
        assert re.search(rf"^\|[^|]*`{name}`", protocol, re.M), f"{name} is in no table"


def reply_errors() -> dict[str, Outcome]:
    leaves = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReplyError)
    ]
    return {kind.code: kind.outcome for kind in leaves}


@pytest.mark.parametrize(
    ("document", "heading", "column", "words"),
    [
        ("docs/protocol.md", "Errors", 1, {Outcome.DEFINITE: "definite", Outcome.INDEFINITE: "indefinite"}),
        (
            "README.md",
            "What errors mean",
            2,
            {Outcome.DEFINITE: "definite", Outcome.INDEFINITE: "**in doubt**"},
        ),
    ],
)
def test_every_error_is_listed_with_its_outcome(
    document: str, heading: str, column: int, words: dict[Outcome, str]
) -> None:
    said = {
        re.findall(r"`(\w+)", row[0])[0]: row[column]
        for row in table_rows(text_of(document), heading)
        if "`" in row[0]
    }
    for code, outcome in reply_errors().items():
        assert said.get(code) == words[outcome], f"{document}: {code}"


def test_exit_codes_are_those_of_the_node() -> None:
    source = text_of("cluster/runtime/main.py")
    constants = {int(value) for value in re.findall(r"^EXIT_\w+ = (\d+)$", source, re.M)}
    said = {int(row[0]) for row in table_rows(text_of("docs/operations.md"), "Exit codes of a node")}
    assert said == constants | {0}


def test_default_times_are_those_of_the_core() -> None:
    from cluster.raft.config import RaftConfig

    times = RaftConfig()
    rows = table_rows(text_of("docs/operations.md"), "Wide networks: three numbers that move together")
    default = [
        f"{times.election_timeout_min_ms}, {times.election_timeout_max_ms}",
        f"{times.heartbeat_ms}",
        f"{times.lease_ms}",
    ]
    assert rows[0][1:] == default
    for _, election, heartbeat, lease in rows:
        low, high = (int(number) for number in election.split(","))
        RaftConfig(
            election_timeout_min_ms=low,
            election_timeout_max_ms=high,
            heartbeat_ms=int(heartbeat),
            lease_ms=int(lease),
        )


def test_the_layer_table_names_every_layer() -> None:
    from tests.test_layers import LAYERS

    rows = " ".join(row[0] for row in table_rows(text_of("docs/architecture.md"), "Layers"))
    for layer in LAYERS:
        path = layer.replace(".", "/")
        if layer != "cluster" and ((ROOT / path).exists() or (ROOT / f"{path}.py").exists()):
            assert f"`{path}" in rows, f"{layer} is not in the layer table"


def test_make_targets_named_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.M))
    for document in DOCUMENTS:
        for span in code_spans(document.read_text(encoding="utf-8")):
            if span.startswith("make "):
                assert set(re.findall(r"[a-z]+", span.removeprefix("make "))) <= targets, (
                    f"{document.name}: {span}"
                )


# -- the command line --------------------------------------------------------------------------------------


def cli() -> Any:
    import click

    main = importlib.import_module("cli.commands")
    groups = [value for name, value in sorted(vars(main).items()) if isinstance(value, click.Group)]
    top = [group for group in groups if "up" in group.commands]
    assert top, "cli.commands has a click group with the command up"
    return top[0]


def named_commands() -> Iterator[tuple[str, list[str]]]:
    """Document, and the words after each `azimuth`, in code spans and code blocks."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
        lines = [line for block in blocks for line in block.splitlines()]
        for line in [*lines, *code_spans(text)]:
            for match in re.finditer(r"(?:^|bin/| {2,})azimuth ([a-z][^#`]*)", line):
                yield document.name, match[1].split()


def test_every_command_named_in_the_documents_exists() -> None:
    root = cli()
    seen = 0
    for document, words in named_commands():
        seen += 1
        command: Any = root
        rest = list(words)
        while hasattr(command, "commands") and rest and re.fullmatch(r"[a-z]+", rest[0]):
            assert rest[0] in command.commands, f"{document}: azimuth {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in rest:
            if word.startswith("--"):
                assert word.partition("=")[0] in options, f"{document}: azimuth {' '.join(words)}"
    assert seen > 20


def test_every_command_and_option_is_in_the_readme() -> None:
    root = cli()
    rows = table_rows(text_of("README.md"), "Start a cluster")
    table = {row[0]: " ".join(row) for row in rows}
    for name, command in root.commands.items():
        said = " ".join(text for first, text in table.items() if f"azimuth {name}" in first)
        assert said, f"azimuth {name} is not in README's table"
        for sub in getattr(command, "commands", {}):
            assert f"{name} {sub}" in said, f"azimuth {name} {sub} is not in README's table"
        for leaf in [command, *getattr(command, "commands", {}).values()]:
            for option in long_options(leaf) - {"--help", "--dir"}:
                assert f"`{option}" in said, f"azimuth {name} {option} is not in README's table"


def long_options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


# -- the snippet that users copy ---------------------------------------------------------------------------


class FlakyCluster(socketserver.ThreadingTCPServer):
    """One node that owns all slots. It counts INCRs; `answer` makes the reply, None breaks the connection."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        super().__init__(("127.0.0.1", 0), FlakyClient)
        self.answer = answer
        self.increments = 0
        self.port = int(self.server_address[1])


class FlakyClient(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, FlakyCluster)
        reader = hiredis.Reader()
        while data := self.request.recv(65536):
            reader.feed(data)
            while (words := reader.gets()) is not False:
                reply = self.reply(server, [bytes(word).upper() for word in words])
                if reply is None:
                    return
                self.request.sendall(reply)

    def reply(self, server: FlakyCluster, words: list[bytes]) -> bytes | None:
        match words:
            case [b"CLUSTER", b"SLOTS"]:
                port = server.port
                return b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$40\r\n%s\r\n" % (
                    port,
                    b"a" * 40,
                )
            case [b"HELLO", *_]:
                return b"%1\r\n$5\r\nproto\r\n:3\r\n"
            case [b"COMMAND", *_]:
                return b"*1\r\n*6\r\n$4\r\nincr\r\n:2\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n"
            case [b"INFO", *_]:
                return b"$0\r\n\r\n"
            case [b"INCR", _]:
                server.increments += 1
                return server.answer(server.increments)
            case _:
                return b"+OK\r\n"


@pytest.fixture
def flaky() -> Iterator[Callable[[Callable[[int], bytes | None]], FlakyCluster]]:
    servers: list[FlakyCluster] = []

    def start(answer: Callable[[int], bytes | None]) -> FlakyCluster:
        server = FlakyCluster(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def snippet(port: int) -> Callable[..., tuple[str, Any]]:
    """README's redis-py code, pointed at `port`; returns its `write`."""
    text = text_of("README.md")
    marked = text[text.index("<!-- snippet: redis-py -->") : text.index("<!-- end of redis-py -->")]
    code = re.search(r"```python\n(.*?)```", marked, re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace("port=7001", f"port={port}"), names)
    write: Callable[..., tuple[str, Any]] = names["write"]
    return write


StartFlaky = Callable[[Callable[[int], bytes | None]], FlakyCluster]


def test_the_snippet_reports_a_done_write(flaky: StartFlaky) -> None:
    server = flaky(lambda count: b":%d\r\n" % count)
    assert snippet(server.port)("INCR", "n") == ("done", 1)


def test_the_snippet_sends_a_write_once_and_reports_doubt_when_the_connection_breaks(
    flaky: StartFlaky,
) -> None:
    server = flaky(lambda count: None)
    outcome, _ = snippet(server.port)("INCR", "n")
    assert outcome == "in doubt"
    assert server.increments == 1


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (b"-INDOUBT it may or may not have happened\r\n", "in doubt"),
        (b"-CLUSTERDOWN The shard has no serving primary\r\n", "refused"),
        (b"-CROSSSLOT Keys in request don't hash to the same slot\r\n", "refused"),
        (b"-ERR wrong number of arguments for 'incr' command\r\n", "refused"),
        (b"-READONLY You can't write against a read only replica.\r\n", "refused"),
    ],
)
def test_the_snippet_tells_doubt_from_refusal(flaky: StartFlaky, reply: bytes, outcome: str) -> None:
    server = flaky(lambda count: reply)
    assert snippet(server.port)("INCR", "n")[0] == outcome
    assert server.increments == 1


def test_a_client_with_its_default_retries_applies_a_write_twice(flaky: StartFlaky) -> None:
    """Why README warns: two increments, one success."""
    from redis.cluster import RedisCluster

    server = flaky(lambda count: None if count == 1 else b":%d\r\n" % count)
    execute: Callable[..., Any] = RedisCluster(host="127.0.0.1", port=server.port).execute_command
    assert execute("INCR", "n") == 2
    assert server.increments == 2


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
