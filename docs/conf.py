"""Sphinx's configuration, and the tables of settings, which are made from the configurations themselves."""

import re
from typing import Any

from sphinx.application import Sphinx

import adm_jax
from adm_jax import config
from adm_jax.config.collect import CollectConfig
from adm_jax.config.evaluation import CompoundingErrorConfig, OPEConfig
from adm_jax.config.models import registered
from adm_jax.config.presets.offline import STEADY
from adm_jax.config.presets.online import STEADY as ONLINE_STEADY
from adm_jax.config.settings import Leaf, leaves, range_text

project, author, release = "adm_jax", "the adm_jax authors", adm_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples"]
html_theme, html_title = "furo", "adm_jax"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring, napoleon_numpy_docstring = True, False
autodoc_typehints, autodoc_member_order = "signature", "bysource"
nitpicky = False

_CONFIGS = {
    "offline": config.OfflineConfig,
    "online": config.OnlineConfig,
    "ope": OPEConfig,
    "compounding_error": CompoundingErrorConfig,
    "collect": CollectConfig,
}
_STEADY = {"offline": STEADY, "online": ONLINE_STEADY}
_MARK = re.compile(r"<!-- settings: (\w+) -->")


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _fill_in)


def _fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts a table in the place of each ``<!-- settings: NAME -->``."""
    del app, page
    source[0] = _MARK.sub(lambda match: _table(match[1]), source[0])


def _table(name: str) -> str:
    steady = _STEADY.get(name)
    if name == "models":
        return "\n\n".join(
            f"### `{model}`\n\n" + _rows(list(leaves(registered()[model].config_class)), None)
            for model in registered()
        )
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves(_CONFIGS[name]):
        groups.setdefault(leaf.group, []).append(leaf)
    return "\n\n".join(
        (f"### {group}\n\n" if group else "") + _rows(members, steady) for group, members in groups.items()
    )


def _rows(members: list[Leaf], steady: dict[str, Any] | None) -> str:
    head = ["setting", "default", *(["`steady`"] if steady else []), "meaning"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for leaf in members:
        bounds = range_text(*(leaf.metadata[bound] for bound in ("low", "high", "above")))
        meaning = leaf.help + (f" ({bounds})" if bounds else "")
        cells = [f"`{leaf.name}`", _value(leaf.default)]
        if steady:
            cells.append(_value(steady[leaf.name]) if leaf.name in steady else "")
        lines.append(f"| {' | '.join([*cells, meaning.replace('|', chr(92) + '|')])} |")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return "`" + (",".join(map(str, value)) if isinstance(value, tuple) else str(value)) + "`"
