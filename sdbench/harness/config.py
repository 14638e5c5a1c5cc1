"""Turn the words of a command line into a plain, resolved and checked config. Each error of Hydra becomes one sentence."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from sdbench import validate
from sdbench.errors import InputError
from sdbench.harness.arm_models import bring
from sdbench.harness.grids import expand_grids
from sdbench.harness.override_words import as_overrides, quote
from sdbench.harness.schema import Comparison
from sdbench.paths import expanded

# Our launchers `basic` and `joblib` have the names of Hydra's launchers. So Hydra checks them against its schema, and warns.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

GROUPS = {
    "models": "family of models",
    "arms": "arm",
    "acceptance": "acceptance rule",
    "lengths": "length policy",
    "tasks": "task",
    "hardware": "hardware profile",
    "tracker": "tracker",
    "experiment": "experiment",
    "latency": "machine's latencies",
    "train": "training recipe",
    "data": "source of training data",
}  # config group: what one member of the group is called
_CALLED = {**GROUPS, "hydra/launcher": "launcher"}


def config_dir() -> Path:
    """Return the folder `conf`. It is next to the package in a checkout, and inside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def search_path(extra: Path | None = None) -> list[Path]:
    """Return the additional folders of configs: the user's folder, and those of installed packages.

    A package offers its configs by an entry point of the group `sdbench.conf`. Its value names the package that holds the files.
    """
    installed = [Path(str(resources.files(point.value))) for point in metadata.entry_points(group="sdbench.conf")]
    return [*([extra] if extra else []), *installed]


def choices(group: str, extra: Path | None = None) -> list[str]:
    """Return the sorted names of the members of a config group."""
    found = [
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in (config_dir(), *search_path(extra))
        for path in (folder / group).rglob("*.yaml")
    ]
    return sorted(set(found))


def members(group: str) -> dict[str, Any]:
    """Return the resolved config of every member of a group, by name. One composition reads them all. Raises: InputError."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    names = choices(group)
    words = hydra_words([f"+{group}@member{index}={name}" for index, name in enumerate(names)])
    try:
        composed = _composed(words, None)
        found = [OmegaConf.to_container(composed[f"member{index}"], resolve=True) for index in range(len(names))]
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(sentence_of(error, words)) from error
    return dict(zip(names, found, strict=True))


def hydra_words(overrides: Sequence[str], extra: Path | None = None, sweep: bool = False) -> list[str]:
    """Return the overrides in Hydra's grammar, and the override that adds the folders of `search_path`.

    extra: another folder of configs. This function adds it to `sys.path`, so that configs can name its Python files.
    sweep: whether commas separate values. Raises: InputError.
    """
    if extra is not None:
        extra = expanded(extra)
        if not extra.is_dir():
            raise InputError(f"--config-dir {extra} is no folder.")
        check_folder("--config-dir", extra.resolve())
        sys.path.insert(0, str(extra.resolve()))
    lm_eval_tasks = [name for name in choices("tasks", extra) if name.startswith("lm_eval/")]
    for word in overrides:
        group, _, member = word.partition("=")
        if member in ("null", "") and group in GROUPS and group != "experiment":
            raise InputError(f"{group} is {member or 'empty'}; it must name one: {', '.join(choices(group, extra))}.")
    words = as_overrides([word for word in overrides if word != "experiment=null"], lm_eval_tasks, sweep)
    folders = [quote(f"file://{folder.resolve()}", interpolate=False) for folder in search_path(extra)]
    return [*words, f"hydra.searchpath=[{','.join(folders)}]"] if folders else words


def check_folder(what: str, folder: Path) -> None:
    """Refuse a folder of which Hydra would read a part as a reference. what: its use, for the message. Raises: InputError."""
    if "${" in str(folder):
        raise InputError(f"{what}: the path {folder} holds '${{', which Hydra reads as a reference: rename the folder.")


def compose(
    overrides: Sequence[str], extra: Path | None = None, name: str = "config", schema: type = Comparison
) -> dict[str, Any]:
    """Return the resolved and checked config for the overrides.

    extra: another folder of configs, such as a user's arms, rules and tasks, and of the Python files that they name.
    name: of the main config. schema: the config must conform to it. Raises: InputError.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for word in overrides:
        if re.match(r"[+~]*hydra[/.](?!searchpath|sweeper\.params=null)", word):
            raise InputError(f"'{word}' has no effect on a single run: Hydra's own settings are for a sweep (-m).")
    words = hydra_words(overrides, extra)
    try:
        composed = _composed(words, name)
        grid, chosen = composed.hydra.sweeper.params, dict(composed.hydra.runtime.choices)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise InputError(sentence_of(error, words, extra, name)) from error
    if grid:
        axes = ", ".join(f"{key}={value}" for key, value in grid.items())
        raise InputError(f"This experiment is a grid ({axes}): run it with -m.")
    return resolved(composed, chosen, overrides, schema)


def resolved(
    composed: Any, chosen: Mapping[str, Any], overrides: Sequence[str] = (), schema: type = Comparison
) -> dict[str, Any]:
    """Return a composed config as checked, plain dicts and lists, with one arm for each point of a grid.

    composed: Hydra's config. chosen: the chosen members of each group. overrides: an override of an arm must name a chosen arm.
    Raises: InputError.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        config = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(_one_line(error)) from error
    assert isinstance(config, dict)
    if schema is Comparison:
        config = {**dict.fromkeys(("models", "arms", "tasks", "hardware", "tracker")), **config}
        if not config["arms"]:
            raise InputError("No arm was named: give arms=[NAME,...], such as arms=[ar,sd].")
        if isinstance(config["arms"], dict):
            config["arms"] = _chosen_arms(config["arms"], chosen.get("arms"), overrides)
        if isinstance(config["models"], dict) and isinstance(config["arms"], dict):
            config["models"], config["arms"] = bring(config["models"], config["arms"])
    validate.conforms("", config, schema)
    if schema is Comparison:
        config["arms"] = expand_grids(config["arms"])
    return {str(key): value for key, value in config.items()}


def _chosen_arms(arms: Mapping[str, Any], chosen: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """Remove the arms that were not chosen but have knobs, because an experiment or an override sets them.

    Raises: InputError if an override names such an arm, because the override would have no effect.
    """
    names = [Path(name).name for name in chosen or ()] if not isinstance(chosen, str) else [chosen]
    kept = {
        arm: knobs for arm, knobs in arms.items() if arm in names or not isinstance(knobs, dict) or "_target_" in knobs
    }
    for word in overrides:
        named = re.match(r"\+*arms\.([^.=]+)\.|\w+@arms\.([^.=]+)\.", word)
        arm = named and (named[1] or named[2])
        if arm and arm not in kept:
            raise validate.unknown(f"'{word}' sets a knob of an arm that does not run:", arm, kept, "the arms are")
    return kept


def _composed(words: Sequence[str], name: str | None) -> Any:
    """Return the config that Hydra composes from the words. name: of the main config (None: empty). Raises Hydra's errors."""
    from hydra import compose as hydra_compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return hydra_compose(config_name=name, overrides=list(words), return_hydra_config=True)


def sentence_of(error: Exception, words: Sequence[str], extra: Path | None = None, name: str = "config") -> str:
    """Return an error of Hydra as one sentence. words: the overrides that Hydra read. name: of the main config."""
    text = _one_line(error)
    missing = re.search(r"Could not (?:find|load) '((?:hydra/)?\w+)/([^']+)'", text)
    if missing:
        group, member = missing.groups()
        called = _CALLED.get(group, group)
        said = str(validate.unknown(f"There is no {called}", member, choices(group, extra)))
        return said if extra or group not in GROUPS else f"{said[:-1]}; --config-dir DIR adds your own."
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown and "@" in unknown[1]:
        said = str(validate.unknown("There is no place", unknown[1], _places(words, name), "there are"))
        return f"{said[:-1]}; a new place begins with '+'."
    if unknown:
        return _unknown_key(unknown[1].split("."), words, name)
    appended = re.search(r"Could not append to config\. An item is already at '([^']+)'", text)
    if appended:
        return f"'{appended[1]}' is in the config already: leave out the '+'."
    return text


def _unknown_key(keys: Sequence[str], words: Sequence[str], name: str) -> str:
    """Return the sentence about the first of these nested keys that is not in the config, which the groups alone compose."""
    from omegaconf import DictConfig

    node, path = _groups_alone(words, name), []
    for key in keys[:-1]:
        if not (isinstance(node, DictConfig) and key in node):
            break
        node = node[key]
        path.append(key)
    known = [str(key) for key in node if key != "hydra"] if isinstance(node, DictConfig) else []
    where = f"'{'.'.join(path)}' has no" if path else "The config has no"
    return str(validate.unknown(where, keys[len(path)], known, "it has"))


def _places(words: Sequence[str], name: str) -> list[str]:
    """Return the packages of the config that take a member of a group, such as `acceptance@arms.sd.rule`."""
    composed = _groups_alone(words, name)
    return [] if composed is None else [place for place in composed.hydra.runtime.choices if "@" in place]


def _groups_alone(words: Sequence[str], name: str) -> Any:
    """Return the config without the single values of the command line; None if Hydra cannot compose it.

    It has the members of groups that the words choose, such as the rule of an arm, unless such a word is itself the mistake.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    groups = [word for word in words if word.partition("=")[0] in (*GROUPS, "hydra.searchpath")]
    placed = [word for word in words if "@" in word.partition("=")[0]]
    for tried in ([*groups, *placed], groups, []):
        try:
            return _composed(tried, name)
        except (HydraException, OmegaConfBaseException, ValueError, TypeError):
            continue
    return None


def _one_line(error: Exception) -> str:
    """Return the text of an error in one line. Of the lines that OmegaConf adds, keep only the full key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    places = [line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")]
    said = " ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=")))
    return f"{places[0]}: {said}" if places and places[0] and places[0] not in said else said
