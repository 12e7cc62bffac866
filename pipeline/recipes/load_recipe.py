"""From YAML, a preset and `-o key=value` to a recipe; a mistake becomes one line with field, value and remedy."""

import difflib
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.clip_training.recipe import CaptionerTrainRecipe, ClassifierClipTrainRecipe, ClipTrainRecipe
from pipeline.loop.settings import LoopRecipe
from pipeline.recipes.presets import PRESETS
from pipeline.recipes.recipe import Recipe
from pipeline.sam2_training.recipe import Sam2TrainRecipe
from pipeline.sources.credentials import refuse_credentials_in
from pipeline.training.recipe import TrainRecipe
from pipeline.video.recipe import SAV, VideoRecipe

SomeRecipe = TypeVar("SomeRecipe", bound=BaseModel)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load_train_recipe(
    name_or_path: str, overrides: list[str] | None = None
) -> TrainRecipe | Sam2TrainRecipe | ClipTrainRecipe | ClassifierClipTrainRecipe | CaptionerTrainRecipe:
    """As `load_recipe`, for a recipe of `maskfoundry train`; `kind` says what it trains, a SAM where there is none."""
    content = _read(_find(name_or_path))
    apply_overrides(content, overrides or [])
    kind = content.get("kind")
    if kind == "sam2":
        return _validate(Sam2TrainRecipe, content)
    if kind == "clip":
        return _validate(ClipTrainRecipe, content)
    if kind == "classifier_clip":
        return _validate(ClassifierClipTrainRecipe, content)
    return _validate(CaptionerTrainRecipe, content) if kind == "captioner" else _validate(TrainRecipe, content)


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """The recipe at a path or of a shipped name, with `overrides` such as `generate.points_per_side=16` on top.

    Raises ValueError with one line that names the field, its value and the remedy.
    """
    content = _read(_find(name_or_path))
    apply_overrides(content, overrides or [])
    return validate_recipe(content)


def load_run_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe | VideoRecipe:
    """As `load_recipe`, for `maskfoundry run`: `kind: video` annotates videos."""
    content = _read(_find(name_or_path))
    apply_overrides(content, overrides or [])
    return validate_video_recipe(content) if content.get("kind") == "video" else validate_recipe(content)


def load_loop_recipe(name_or_path: str, overrides: list[str] | None = None) -> LoopRecipe:
    """As `load_recipe`, for a recipe of `maskfoundry loop`."""
    content = _read(_find(name_or_path))
    apply_overrides(content, overrides or [])
    return _validate(LoopRecipe, content)


def validate_train_recipe(content: dict[str, Any]) -> TrainRecipe:
    """A training's recipe from plain values."""
    return _validate(TrainRecipe, content)


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """A recipe's plain values, as written. Raises ValueError if there is none."""
    return _read(_find(name_or_path))


def apply_overrides(content: dict[str, Any], overrides: list[str]) -> None:
    """Set `field=value` pairs in plain recipe values. Raises ValueError for one that is not of that form."""
    for override in overrides:
        _override(content, override)


def validate_recipe(content: dict[str, Any]) -> Recipe:
    """A recipe from plain values: the preset's choices first, the recipe's own on top of them."""
    return _validate(Recipe, _on_top_of(PRESETS.get(content.get("preset", "default"), {}), content))


def validate_video_recipe(content: dict[str, Any]) -> VideoRecipe:
    """A recipe over videos from plain values, on top of SA-V's published settings."""
    return _validate(VideoRecipe, _on_top_of(SAV, content))


def _on_top_of(preset: dict[str, dict[str, Any]], content: dict[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for section, choices in preset.items():
        own = content.get(section, {})
        merged[section] = {**choices, **own} if isinstance(own, dict) else own
    return merged


def _validate(kind: type[SomeRecipe], content: dict[str, Any]) -> SomeRecipe:
    refuse_credentials_in(content)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ValueError(_one_line(error, kind)) from None


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    shipped = CONFIGS / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    names = shipped_recipes()
    near = difflib.get_close_matches(name_or_path, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"recipe {name_or_path!r}: neither a file nor a shipped recipe; {hint}shipped are {', '.join(names)}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"recipe {path}: must be a mapping such as `input: photos/`")
    return content


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ValueError(f"-o {override!r}: write it as field=value, such as -o generate.points_per_side=16")
    *sections, name = key.split(".")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ValueError(f"-o {override!r}: {section!r} is a value and has no fields of its own")
    try:
        target[name] = yaml.safe_load(text)
    except yaml.YAMLError:
        target[name] = text  # a path such as `[photos` is not YAML, and need not be


def _one_line(error: ValidationError, kind: type[BaseModel]) -> str:
    first, *others = error.errors()
    if not first["loc"]:  # of fields that do not go together: the message names them
        return str(first["msg"]).removeprefix("Value error, ")
    # a field of several kinds (`4` or `auto`) reports each kind as a last step of its own
    path = [str(part) for part in first["loc"] if not _is_kind(str(part))]
    field = ".".join(path)
    more = f" (and {len(others)} more)" if others and first["type"] == "extra_forbidden" else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(kind, path[:-1])
        near = difflib.get_close_matches(path[-1], known, 1, 0.5)
        hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        return f"{field}: no such field; {hint}{more}"
    if first["type"] == "missing":
        return f"{field}: missing; set it in the recipe or with -o {field}=…"
    same_field = [one for one in error.errors() if [str(p) for p in one["loc"] if not _is_kind(str(p))] == path]
    remedy = " or ".join(dict.fromkeys(str(one["msg"]).removeprefix("Value error, ") for one in same_field))
    return f"{field}: {first['input']!r} is not valid: {remedy[:1].lower()}{remedy[1:]}"


def _is_kind(part: str) -> bool:
    return part.startswith(("constrained-", "literal[")) or part in ("int", "float", "str", "bool")


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation
        annotation = next((one for one in get_args(annotation) if one is not NoneType), annotation)
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
