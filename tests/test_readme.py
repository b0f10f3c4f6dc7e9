"""The tree in README.md is the tree: every file of src with its first line. `python tests/test_readme.py` writes it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_TREE = re.compile(r"(## The tree\n\n```\n).*?(\n```)", flags=re.S)


def tree() -> str:
    """One line a file: its path below src/rankwright and its purpose, rooms after the files of the top."""
    package = ROOT / "src" / "rankwright"
    lines = ["src/rankwright/"]
    folders = sorted({p.parent for p in package.rglob("*.py")}, key=lambda p: (p != package, p.name))
    for folder in folders:
        if folder != package:
            lines.append(f"  {folder.name}/")
        indent = "  " if folder == package else "    "
        for path in sorted(folder.glob("*.py"), key=lambda p: (p.name != "__init__.py", p.name)):
            purpose = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
            lines.append(f"{indent}{path.name:<{24 - len(indent)}} {purpose}")
    for name in sorted(p.name for p in (package / "recipes").glob("*.yaml")):
        first = (package / "recipes" / name).read_text().splitlines()[0].lstrip("# ")
        lines.append(f"  recipes/{name:<14} {first}")
    return "\n".join(lines)


def test_the_readme_shows_the_tree_as_it_is():
    found = _TREE.search((ROOT / "README.md").read_text())
    assert found
    shown = found.group(0).removeprefix(found.group(1)).removesuffix(found.group(2))
    assert shown == tree(), "run: python tests/test_readme.py"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text()
    readme.write_text(_TREE.sub(lambda m: m.group(1) + tree() + m.group(2), text))
