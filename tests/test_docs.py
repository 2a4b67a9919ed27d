"""
The documentation says what the code does.
"""

import re
import tomllib
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

    def test_the_readme_spells_upstreams_that_are_understood(self) -> None:
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

    def test_nothing_is_installed_from_an_index(self) -> None:
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
