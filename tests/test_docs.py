"""
The documentation says what the code does.
"""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.main import _COMMANDS, _USAGE
from dotproxy.config.describe import example_file, options_table
from dotproxy.config.schema import SETTINGS
from dotproxy.config.values import parse_upstream_value
from dotproxy.tap import Options
from dotproxy.telemetry.metrics import metrics_table
from dotproxy.upstream.presets import PRESETS
from dotproxy.upstream.spec import parse_upstream

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "dotproxy"


@cache
def names_in(path: Path) -> frozenset[str]:
    """
    The names a module has: ``name``, ``Class``, ``Class.member``.
    """
    found: set[str] = set()
    waiting: list[tuple[str, ast.stmt]] = [("", node) for node in ast.parse(path.read_text("utf-8")).body]
    for prefix, node in waiting:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                waiting += [(f"{node.name}.", member) for member in node.body]
        elif isinstance(node, ast.If | ast.Try):
            waiting += [(prefix, inner) for inner in node.body]
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {prefix + one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return frozenset(found)


def file_of(module: str) -> tuple[Path | None, str]:
    """
    The file of a dotted path from the package, and what is left of the path.
    """
    parts = module.split(".")
    for cut in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:cut])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.exists() and (cut > 1 or candidate.parent == PACKAGE):
                return candidate, ".".join(parts[cut:])
    return None, module


class DocumentationTests(SynchronousTestCase):
    """
    What stands in the repository's documents, against the code it is about.
    """

    def test_the_configuration_page_has_the_schema(self) -> None:
        """
        The table in docs/configuration.md is the one the schema renders.
        """
        self.assertIn(options_table(), (TOP / "docs" / "configuration.md").read_text("utf-8"))

    def test_the_configuration_page_names_what_a_reload_does_not_take_back(self) -> None:
        """
        All settings that are guarded, in the order of the schema.
        """
        page = (TOP / "docs" / "configuration.md").read_text("utf-8")
        listed = page.split("because nothing sets it any more:")[1].partition(". It is refused")[0]
        guarded = [setting.key for setting in SETTINGS if setting.is_guarded]
        self.assertEqual(guarded, re.findall(r"`(\w+)`", listed))

    def test_the_example_file_has_the_schema(self) -> None:
        """
        deploy/dotproxy.toml is what `dotproxy example` prints.
        """
        self.assertEqual(example_file(), (TOP / "deploy" / "dotproxy.toml").read_text("utf-8"))

    def test_the_readme_names_every_preset(self) -> None:
        """
        The README's list of presets is the list of presets.
        """
        readme = (TOP / "README.md").read_text("utf-8")
        listed = re.search(r"^Presets: (.*?)\. A preset", readme, re.DOTALL | re.MULTILINE)
        assert listed
        self.assertEqual(sorted(PRESETS), sorted(re.findall(r"`([^`]+)`", listed[1])))

    def test_upstreams_in_the_readme_are_parsed(self) -> None:
        """
        Every upstream in the README's list can be parsed.
        """
        readme = (TOP / "README.md").read_text("utf-8")
        block = re.split(r"All of\s+these are understood:", readme)[1].split("```")[1]
        specs = [line.split()[0] for line in block.strip().splitlines()]
        self.assertEqual(13, len(specs))
        pin = "sxDbe4S5sNkmkqq8b5EdBi7RKtEY5hhR23rHRLMRTMs="
        for spec in specs:
            upstream = parse_upstream(spec.replace("BASE64", pin))
            self.assertTrue(upstream.addresses or upstream.host)

    def test_spellings_of_other_programs_mean_what_is_said(self) -> None:
        """
        Each in the table of docs/configuration.md is the same upstream as what stands beside it.
        """
        page = (TOP / "docs" / "configuration.md").read_text("utf-8").split("## How an upstream may be written")[1]
        rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `(tls://[^`]+)` \|$", page, re.MULTILINE)
        self.assertEqual(10, len(rows))
        for spelling, ours in rows:
            self.assertEqual(ours, str(parse_upstream(spelling)))

    def test_docs_install_from_a_checkout(self) -> None:
        """
        The name dotproxy on the package index is another project's: what is installed is a checkout.
        """
        for path in (
            *TOP.glob("*.md"),
            *TOP.glob("docs/*.md"),
            *TOP.glob("dotproxy/**/*.py"),
            *TOP.glob("deploy/**/*"),
        ):
            if path.is_file() and path.suffix in {".md", ".py", ".service", ".socket", ".toml", ".yaml", ".yml", ""}:
                found = re.findall(r"pip install.*?\bdotproxy\b.*", path.read_text("utf-8"))
                self.assertEqual([], found, str(path))

    def test_the_readme_has_a_configuration_that_loads(self) -> None:
        """
        The README's TOML has known keys, and upstreams that can be parsed.
        """
        readme = (TOP / "README.md").read_text("utf-8")
        table = tomllib.loads(readme.split("```toml")[1].split("```")[0])
        self.assertLessEqual(set(table), {setting.key for setting in SETTINGS})
        for value in table["upstream"]:
            self.assertTrue(parse_upstream_value(value).addresses)

    def test_behaviours_name_settings(self) -> None:
        """
        The table of behaviours in the README, and the page for users of Unbound, name settings that there are; the
        README leaves out none that decides about a behaviour.
        """
        keys = {setting.key for setting in SETTINGS}
        rows = re.findall(
            r"^\| [^|]+ \| [^|]+ \| ([^|]+) \| [^|]+ \|$", (TOP / "README.md").read_text("utf-8"), re.MULTILINE
        )
        named = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
        self.assertEqual(set(), named - keys)
        self.assertEqual({"connect_timeout", "udp_batched"}, keys - named)
        page = (TOP / "docs" / "unbound.md").read_text("utf-8")
        cells = re.findall(r"^\| `[^|]+ \| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
        self.assertGreater(len(cells), 50)
        self.assertEqual(set(), {word for cell in cells for word in re.findall(r"`(\w+)`", cell)} - keys)

    def test_texts_before_commands_that_are_tested(self) -> None:
        """
        The tests under a booted systemd, which run seldom, find the commands of docs/deploy.md by the text before them.
        """
        page = (TOP / "docs" / "deploy.md").read_text("utf-8")
        source = (TOP / "tests" / "integration" / "test_systemd_boot.py").read_text("utf-8")
        texts = re.findall(r"""documented\(["']([^"']+)["']\)""", source)
        self.assertGreater(len(texts), 3)
        self.assertEqual([], [text for text in texts if text not in page])

    def test_help_tells_of_every_setting(self) -> None:
        """
        `twistd dotproxy --help` has each setting's option and what it is for.
        """
        text = " ".join(Options().getUsage(width=200).split())
        for setting in SETTINGS:
            self.assertIn(f"--{setting.option}=", text)
            self.assertIn(" ".join(setting.help.split()), text)

    def test_usage_tells_of_every_command(self) -> None:
        """
        `dotproxy` without arguments lists each command it has.
        """
        listed = re.findall(r"^  ([a-z]+)  ", _USAGE, re.MULTILINE)
        self.assertEqual(list(_COMMANDS), listed)

    def test_the_metrics_page_has_all_of_them(self) -> None:
        """
        docs/metrics.md has the table that the code makes.
        """
        self.assertIn(metrics_table(), (TOP / "docs" / "metrics.md").read_text("utf-8"))


class CodeNamesTests(SynchronousTestCase):
    """
    Files, modules, classes and functions that the documents name, against the code.
    """

    def setUp(self) -> None:
        """
        The words in code style of each document.
        """
        pages = [*TOP.glob("*.md"), *TOP.glob("docs/*.md")]
        pages = [page for page in pages if page.name != "CHANGELOG.md"]
        self.words = [
            (page.name, word) for page in pages for word in re.findall(r"`([^`\n]+)`", page.read_text("utf-8"))
        ]

    def test_named_files_and_members_exist(self) -> None:
        """
        ``room/module.py`` and ``room/module.py:Class.method`` are below ``dotproxy``, in any room, or from the top.
        """
        missing = []
        for page, word in self.words:
            if found := re.fullmatch(r"([\w/]+\.py)(?::([\w.]+))?", word):
                places = [PACKAGE / found[1], TOP / found[1], *PACKAGE.rglob(found[1])]
                path = next((path for path in places if path.exists()), None)
                if path is None or (found[2] and found[2] not in names_in(path)):
                    missing.append(f"{page}: {word}")
        self.assertEqual([], missing)

    def test_dotted_names_exist(self) -> None:
        """
        ``room.module`` and ``room.module.NAME`` exist.
        """
        rooms = "|".join(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
        missing = []
        for page, word in self.words:
            if re.fullmatch(rf"(?:dotproxy\.)?(?:{rooms})(?:\.\w+)+", word):
                path, rest = file_of(word.removeprefix("dotproxy."))
                if path is None or (rest and rest not in names_in(path)):
                    missing.append(f"{page}: {word}")
        self.assertEqual([], missing)

    def test_named_class_members_exist(self) -> None:
        """
        ``Class.member`` is a member of a class of ours.
        """
        known = {name for path in PACKAGE.rglob("*.py") for name in names_in(path)}
        methods = [(page, word) for page, word in self.words if re.fullmatch(r"[A-Z][a-z]\w+\.[a-z_]\w+", word)]
        self.assertGreater(len(methods), 15)
        self.assertEqual([], [f"{page}: {word}" for page, word in methods if word not in known])
