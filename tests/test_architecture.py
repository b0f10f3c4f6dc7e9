"""The house rules a machine can check: import direction, one writer, nothing unsafe, small files, light imports."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rankwright"
FILES = sorted(SOURCE.rglob("*.py"))
WRITERS = ("storage.py", "_files.py", "_scratch.py")

# --- who may import whom ----------------------------------------------------------------------------------------------

RECIPE = {"recipe", "_yaml", "_fields", "_schema"}
BASE = {"types", "names", "errors", "pickles", "artefacts", "storage", "_files", "_scratch"}
BASE |= {"randomness", "signals", "progress"}
WITHIN_BASE = {
    "errors": set(),
    "types": {"names"},
    "names": set(),
    "pickles": set(),
    "randomness": set(),
    "progress": set(),
    "signals": {"errors"},
    "artefacts": {"errors"},
    "_files": {"errors", "artefacts"},
    "_scratch": {"_files"},
    "storage": {"errors", "artefacts", "_files", "_scratch"},
}
LOWER = {"data", "models", "losses", "evaluation"}
UPPER = {"training", "search", "llm"}
ROOMS = BASE | RECIPE | LOWER | UPPER
TOP = (  # from below; modules on one level may know each other, but not at import time in a circle
    {"console", "ledger", "outputs", "plan", "translation"},
    {
        "assemble",
        "first_stages",
        "judgements",
        "loading",
        "mining",
        "naming",
        "outcome",
        "pipeline",
        "stages",
        "teaching",
        "usage",
    },
    {"doctor", "reporting", "comparing"},
    {"api"},
    {"verbs"},
    {"cli"},
    {"__init__", "__main__"},
)


def allowed(part: str) -> set[str]:
    """The parts of the package that a part may import."""
    if part in WITHIN_BASE:
        return WITHIN_BASE[part]
    if part in RECIPE:
        return RECIPE | {"errors"}
    if part == "losses":
        return {"types", "errors"}
    if part in LOWER:
        return BASE - {"_files", "_scratch", "artefacts"}
    if part in UPPER:
        return (BASE - {"_files", "_scratch", "artefacts"}) | {"recipe"} | LOWER
    for level, parts in enumerate(TOP):
        if part in parts:
            return (ROOMS - {"_files", "_scratch", "artefacts", "_yaml", "_fields", "_schema"}).union(*TOP[: level + 1])
    raise AssertionError(f"'{part}' has no place in tests/test_architecture.py: say on which level it stands")


def part_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST, path: Path, *, lazily: bool = True) -> Iterator[tuple[str, int]]:
    """(part of the package, line) of every import at run time; `lazily`: also those inside functions."""
    for node in _runtime_nodes(tree, lazily=lazily):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ("rankwright", *path.relative_to(SOURCE).parent.parts)
            prefix = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*prefix, *(node.module or "").split("."))).strip(".")
            names = [module]
            if module == "rankwright":
                names = [f"rankwright.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        for name in names:
            if name.split(".")[0] == "rankwright":
                part = (*name.split("."), "__init__")[1]
                yield part if part in _parts() else "__init__", node.lineno


def _runtime_nodes(tree: ast.AST, *, lazily: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _runtime_nodes(ast.Module(child.orelse, []), lazily=lazily)
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazily:
            continue
        yield child
        yield from _runtime_nodes(child, lazily=lazily)


@cache
def _parts() -> frozenset[str]:
    return frozenset(part_of(path) for path in FILES)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_downwards(path):
    part = part_of(path)
    may = allowed(part) | {part}
    assert [
        f"{named(path)}:{line} imports {other}" for other, line in imported(tree_of(path), path) if other not in may
    ] == []


def test_no_circle_of_imports_at_import_time():
    graph = {part: set() for part in _parts()}
    for path in FILES:
        graph[part_of(path)] |= {other for other, _ in imported(tree_of(path), path, lazily=False)} - {part_of(path)}
    graph["__init__"] = set()  # imported with every module; its own imports are for type checkers and lazy
    while free := {part for part, others in graph.items() if not others & set(graph)}:
        graph = {part: others for part, others in graph.items() if part not in free}
    assert graph == {}


@pytest.mark.parametrize(
    ("place", "code", "found"),
    [
        ("data/x.py", "from ..models import Dense", ["models"]),
        ("data/x.py", "from .. import models, storage", ["models", "storage"]),
        ("data/x.py", "def f():\n    import rankwright.models.dense", ["models"]),
        ("data/x.py", "from . import formats\nfrom .corpus import Corpus\nimport numpy", ["data", "data"]),
        ("x.py", "from .data.corpus import Corpus\nfrom . import __version__, Dense", ["data", "__init__"]),
        (
            "data/x.py",
            "if TYPE_CHECKING:\n    from ..models import Dense\nelse:\n    from ..losses import Loss",
            ["losses"],
        ),
    ],
)
def test_the_import_test_sees(place, code, found):
    assert [part for part, _ in imported(ast.parse(code), SOURCE / place)] == found


# --- one writer, nothing unsafe ---------------------------------------------------------------------------------------

UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "_pickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {
    "torch": {"load", "save"},
    "yaml": {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"},
    "faiss": {"read_index", "write_index"},
    "dcp": {"load", "save"},
}
WRITING = {
    "os": {
        "remove",
        "unlink",
        "rename",
        "renames",
        "replace",
        "mkdir",
        "makedirs",
        "rmdir",
        "removedirs",
        "symlink",
        "link",
    }
    | {"truncate", "ftruncate", "open", "write", "chmod"},
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "make_archive", "unpack_archive"},
    "np": {"save", "savez", "savez_compressed", "savetxt"},
    "numpy": {"save", "savez", "savez_compressed", "savetxt"},
    "tempfile": {"NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "mkdtemp", "mkstemp"},
    "pq": {"write_table"},
}
WRITING_METHODS = {
    "write_text",
    "write_bytes",
    "mkdir",
    "unlink",
    "rmdir",
    "touch",
    "symlink_to",
    "hardlink_to",
    "tofile",
}
WRITING_METHODS |= {"to_csv", "to_parquet", "to_pickle"}
WRITING_NAMES = {"save_file", "write_table", "memmap", "open_memmap"}
NEVER_TRUE = {"allow_pickle", "trust_remote_code"}
MODE = re.compile(r"[rbtU]*[wax+][rwaxbtU+]*\Z")


def _mode(call: ast.Call) -> str:
    """The mode in which a call opens, if it looks like one."""
    places = call.args[1:2] if isinstance(call.func, ast.Name) else call.args[:2]
    strings = [arg.value for arg in places if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    strings += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    return next((text for text in strings[-1:] if len(text) <= 4), "")


def unsafe(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(what, line) of everything that could run foreign code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((name, node.lineno) for name in modules if name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            owner, _, method = name.rpartition(".")
            if name in UNSAFE_CALLS or method in UNSAFE_ATTRIBUTES.get(owner.split(".")[-1], ()):
                yield name, node.lineno
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in NEVER_TRUE and not off:
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}", node.lineno


def writes(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(what, line) of every call that creates, changes or removes a file by itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        itself = method in WRITING_NAMES and not (method.endswith("memmap") and _mode(node) == "r")
        if method == "open" and owner != "os" and MODE.match(_mode(node)):
            yield f"{name}(..., {_mode(node)!r})", node.lineno
        elif itself or method in WRITING.get(owner, ()) or (method in WRITING_METHODS and owner not in ("", "storage")):
            yield name, node.lineno


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_runs_foreign_code(path):
    assert [f"{named(path)}:{line} {what}" for what, line in unsafe(tree_of(path))] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in WRITERS], ids=named)
def test_storage_is_the_only_writer(path):
    assert [f"{named(path)}:{line} {what}" for what, line in writes(tree_of(path))] == []


@pytest.mark.parametrize(
    "code",
    [
        "open(p, 'w')", "open(p, mode='ab')", "p.open('x')", "gzip.open(p, 'wt')", "open('f', 'r+b')",
        "p.write_text('')", "(a / b).write_bytes(b'')", "p.mkdir()", "p.parent.unlink()", "os.remove(p)",
        "os.replace(a, b)", "shutil.rmtree(p)", "np.save(p, a)", "safetensors.torch.save_file(t, p)", "save_file(t, p)",
        "a.tofile(p)", "frame.to_csv(p)", "np.memmap(p, mode='w+')", "np.lib.format.open_memmap(p, mode='w+')",
        "tempfile.mkdtemp()",
        "pq.write_table(t, p)",
    ],
)  # fmt: skip
def test_the_writer_test_sees(code):
    assert len(list(writes(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "open(p)", "open(p, 'rb')", "p.open()", "p.open('rb')", "storage.write_text(p, '')", "write_text(p, '')",
        "text.replace('a', 'b')", "np.memmap(p, mode='r')", "gzip.open(p, 'rt')", "open('wax')",
        "Loader.open(source, 'x y')",
    ],
)  # fmt: skip
def test_the_writer_test_lets_reading_be(code):
    assert list(writes(ast.parse(code))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "import torch.x, dill", "torch.load(p)", "eval(x)", "exec(x)",
        "yaml.load(x, Loader=L)", "np.load(p, allow_pickle=True)",
        "AutoModel.from_pretrained(p, trust_remote_code=flag)",
        "faiss.read_index(p)", "__import__('os')",
    ],
)  # fmt: skip
def test_the_safety_test_sees(code):
    assert len(list(unsafe(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["model.eval()", "np.load(p, allow_pickle=False)", "yaml.safe_load(x)", "re.compile('a')"]
)
def test_the_safety_test_lets_the_rest_be(code):
    assert list(unsafe(ast.parse(code))) == []


# --- size and style ---------------------------------------------------------------------------------------------------

MAX_LINES, MAX_FUNCTION = 400, 60


def long_functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield node.name, length


def loose_style(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Catch-all keyword arguments, hasattr, mutable defaults."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.args.kwarg:
                yield f"**{node.args.kwarg.arg}", node.lineno
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if isinstance(default, ast.List | ast.Dict | ast.Set):
                    yield f"mutable default {ast.unparse(default)}", node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr":
            yield "hasattr", node.lineno


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_and_functions_are_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES
    assert list(long_functions(tree_of(path))) == []


# transformers calls every attention implementation with all that any of them may want
CALLED_WITH_ANYTHING = {("src/rankwright/models/packing.py", "**_")}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_catch_all_arguments_no_hasattr_no_mutable_defaults(path):
    found = [
        (what, line) for what, line in loose_style(tree_of(path)) if (named(path), what) not in CALLED_WITH_ANYTHING
    ]
    assert [f"{named(path)}:{line} {what}" for what, line in found] == []


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=named)
def test_the_first_line_says_in_one_sentence_what_the_file_is_for(path):
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    assert re.fullmatch(r'"""[^ ].*\.(""")?', first), first
    assert not re.search(r"[a-z)`]\. [A-Z]", first.replace("e.g. ", "")), f"more than one sentence: {first}"


def test_the_style_tests_see():
    body = "    pass\n" * MAX_FUNCTION
    assert list(long_functions(ast.parse(f"def f():\n{body}"))) == [("f", MAX_FUNCTION + 1)]
    code = "def f(a=[], *, b={}, **more):\n    return hasattr(a, 'x')"
    assert [what for what, _ in loose_style(ast.parse(code))] == [
        "**more",
        "mutable default []",
        "mutable default {}",
        "hasattr",
    ]


# --- light imports ----------------------------------------------------------------------------------------------------

HEAVY = ("torch", "transformers", "tokenizers", "pyarrow", "scipy", "pandas", "matplotlib", "sklearn")
LIGHT = [
    "",
    "recipe",
    "plan",
    "types",
    "storage",
    "cli",
    "api",
    "data",
    "models",
    "losses",
    "search",
    "evaluation",
    "training",
    "llm",
]


@pytest.mark.parametrize("module", LIGHT)
def test_spec_modules_do_not_import_the_heavy_libraries(module):
    name = f"rankwright.{module}".strip(".")
    code = f"import sys, {name}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=True)
    assert done.stdout.split() == []


def test_every_exported_name_exists():
    packages = ["rankwright", *(f"rankwright.{path.parent.name}" for path in SOURCE.glob("*/__init__.py"))]
    for package in packages:
        module = importlib.import_module(package)
        missing = [name for name in module.__all__ if getattr(module, name, None) is None]
        assert missing == [], package
        assert len(set(module.__all__)) == len(module.__all__), package


# --- nothing of this machine ------------------------------------------------------------------------------------------

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".json", ".html", ".sh", ""}
ROOTS = "|".join(["work", "root", "tmp", "opt", "home", "Users"])
MACHINE_PATH = re.compile(rf"(?<![\w./:~\-\\])/({ROOTS})/[\w.]")


def own_files() -> Iterator[Path]:
    """What is ours to publish: bundled data, whose texts are other people's, left out."""
    for folder in ("src", "tests", "docs", "benchmarks", ".ci", ".github"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file())
    yield from (path for path in ROOT.glob("*") if path.is_file())


def test_no_path_of_any_machine_is_in_the_tree():
    found = []
    for path in own_files():
        parts = path.relative_to(ROOT).parts
        if (
            path.suffix not in TEXT
            or "bundled" in parts
            or "__pycache__" in parts
            or any(p.endswith(".egg-info") for p in parts)
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{named(path)}:{number} {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize("line", ["cd /" + "work/main", "'/" + "root/x'", "see /" + "opt/wheels", "(/" + "tmp/a)"])
def test_the_path_test_sees(line):
    assert MACHINE_PATH.search(line)
    assert not MACHINE_PATH.search("https://example.org/home/page and docs/work/x and ~/tmp/x")
