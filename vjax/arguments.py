"""What a command line asks for, as an `Order`."""

import argparse
import collections
import dataclasses
import difflib
import pathlib
from typing import Any

from vjax import loras, styles, validation, verbs
from vjax.config import ConfigError, MeshConfig
from vjax.loras import Lora
from vjax.order import SAMPLING, Order
from vjax.timeline import RequestError
from vjax.verbs import Option, Request

PROGRAM = "python -m vjax.sample"


def _named(text: str) -> str:
    if not text:
        raise RequestError("a name is needed after it.")
    return text


def _lora(text: str) -> Lora | None:
    return None if text == "none" else loras.parse(text)


# What every verb takes on the command line beside its own fields.
OPTIONS = {
    "styles": Option("a file of your own styles: JSON or CSV", "FILE", _named),
    "prompts": Option("instead of --prompt: a video for each line of FILE", "FILE", _named),
    "upsample": Option(
        "say the prompt more fully: by a template, or by the chat endpoint at URL", "[URL]", _named
    ),
    "caption": Option("the chat endpoint at URL writes the prompt of what is given", "URL", _named),
    "upsample_model": Option("which model of the endpoint; default: its only one", "NAME"),
    "upsample_seconds": Option("how long it may take to answer (30)", "S", float),
    "variations": Option("so many of each, with seeds N, N+1, …", "K", int),
    "seed": Option("decides what is left open (0)", "N", int),
    "steps": Option("sampling steps; default: the model's, as for the next four", "N", int),
    "guidance": Option("how closely to follow the prompt; 1 ignores --negative", "G", float),
    "low_guidance": Option(
        "that of the second expert of a model with two; default: --guidance, if given", "G", float
    ),
    "solver": Option("euler, heun, unipc or stochastic", "NAME"),
    "shift": Option(
        "above 1, more of the steps go to the composition, fewer to details", "S", float
    ),
    "model": Option(
        "one that ships in the package, a directory, or an id of the Hugging Face hub",
        "NAME|DIR|ID",
        _named,
    ),
    "lora": Option(
        "a LoRA file to use with it, by 0.8, say; may be given again; FILE@high, FILE@low: one of "
        "two experts, else both; distilled ones want --steps 4 --guidance 1 --solver euler "
        "--shift 5; none: without those of --like",
        "FILE[:SCALE]",
        _lora,
    ),
    "dtype": Option("float32 or bfloat16; default: as fits model and machine", "TYPE"),
    "mesh.data": Option("so many devices share the two branches of guidance", "N", int),
    "mesh.fsdp": Option("the same, and each holds a share of the model", "N", int),
    "mesh.context": Option("so many devices share the tokens and the pixels", "N", int),
    "mesh.tensor": Option("so many devices share the heads of the model", "N", int),
    "mesh.attention": Option("auto, gather, ulysses or ring: how shared tokens meet", "WAY"),
    "out": Option(
        "mp4, webm, gif, webp; without loss: mkv, png (one frame), or a folder of png; default: "
        "a new name that says what was made",
        "FILE",
        _named,
    ),
    "quality": Option("1 to 100, for mp4, webm and webp; default: high", "Q", int),
    "like": Option("make FILE again, except for what is given here", "FILE", _named),
}
EARLY = (  # of these, what belongs to what is made
    "styles",
    "prompts",
    "upsample",
    "caption",
    "upsample_model",
    "upsample_seconds",
    "variations",
)
SWITCHES = {  # also off: what is made again may have them
    "int8": Option(
        "keep the matrices of the model's blocks in 8 bits: half of bfloat16's memory, frames a "
        "little different"
    ),
}
FLAGS = {
    "overwrite": Option("replace --out where it exists"),
    "dry_run": Option("say what would be made, and make nothing"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message.removeprefix('argument ')}.")


def _parser(kind: type[Request]) -> _Parser:
    """The options of a verb; the words between them are taken out before."""
    positional = [o.metavar for o in verbs.options(kind).values() if o.positional]
    usage = " ".join([PROGRAM, *([kind.verb, *positional] if positional else ["[VERB]"])])
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{usage} {'--prompt TEXT ' if verbs.needs(kind, 'prompt') else ''}[options]",
        description=kind.__doc__ if positional else "Makes videos from words, images and videos.",
        epilog=_files(kind) if positional else _verbs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to make")
    how = parser.add_argument_group("how to make it")
    where = parser.add_argument_group("what to write")
    named = verbs.named_options(kind).items()
    for name, (field, option) in sorted(named, key=lambda each: each[0] != "prompt"):
        if verbs.is_flag(kind, field):
            what.add_argument(
                _dashed(name), help=option.help, action=argparse.BooleanOptionalAction
            )
        else:
            action = "append" if verbs.repeats(kind, field) else "store"
            _add(what, name, option, action=action, dest=field)
    if kind.verb == "storyboard":  # what comes with it is read by `vjax.drafting`
        _add(what, "draft", Option("write a board to edit, of what LINE says, instead", "LINE"))
    for name, option in OPTIONS.items():
        early, late = name in EARLY, name in ("out", "quality", "like")
        action = "append" if name == "lora" else "store"
        _add(what if early else where if late else how, name, option, action=action)
    for name, option in SWITCHES.items():
        how.add_argument(_dashed(name), help=option.help, action=argparse.BooleanOptionalAction)
    for name, option in FLAGS.items():
        where.add_argument(_dashed(name), help=option.help, action="store_true")
    return parser


def _add(group, name: str, option: Option, **more) -> None:
    def parse(text: str) -> Any:
        try:
            return (option.parse or str)(text)
        except RequestError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
        except ValueError as error:
            kind = "whole number" if option.parse is int else "number"
            raise argparse.ArgumentTypeError(f"{_short(text)!r} is no {kind}") from error

    group.add_argument(_dashed(name), help=option.help, metavar=option.metavar, type=parse, **more)


def _files(kind: type[Request]) -> str:
    """What a verb takes in place, and how it is called."""
    places = [o for o in verbs.options(kind).values() if o.positional]
    width = max(len(str(place.metavar)) for place in places)
    lines = [f"  {place.metavar:<{width}}  {place.help}" for place in places]
    lines += [f"  {line}" for line in kind.explained.splitlines()]
    return "\n".join(["files:", *lines, "", "example:", f"  {PROGRAM} {kind.example}"])


def _verbs() -> str:
    """The verbs, a line each, with the options that not all of them have."""
    lines = [f"verbs, each with its own {PROGRAM} VERB --help:"]
    everywhere = set.intersection(
        *(set(verbs.named_options(verbs.request_type(verb))) for verb in verbs.VERBS)
    )
    for verb in verbs.VERBS:
        kind = verbs.request_type(verb)
        options = verbs.options(kind)
        call = " ".join([verb, *(o.metavar for o in options.values() if o.positional)])
        own = [_dashed(name) for name in verbs.named_options(kind) if name not in everywhere]
        lines.append(f"  {call:<22} {kind.__doc__} ({', '.join(own)})")
    lines += [
        f"  {'styles [FILE]':<22} Lists what --style may name.",
        f"  {'characters':<22} Keeps pictures of subjects by names for --character.",
    ]
    more = [
        "styles",
        "characters --help",
        "--prompts lines.txt --variations 3 --out clips.mkv",
        "--like out.mp4 --seed 7 --out other.mp4",
    ]
    calls = [*(verbs.request_type(verb).example for verb in verbs.VERBS), *more]
    return "\n".join([*lines, "", "examples:", *(f"  {PROGRAM} {call}" for call in calls)])


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options, as --name=value, and the words between them.

    The word after an option is its value, whatever that begins with.
    """
    takes_value = {
        "--help": False,
        **{_dashed(name): name in OPTIONS for name in (*OPTIONS, *SWITCHES, *FLAGS)},
        **{_dashed(f"no_{name}"): False for name in SWITCHES},
    }
    for verb in verbs.VERBS:
        kind = verbs.request_type(verb)
        for name, (field, _) in verbs.named_options(kind).items():
            flag = verbs.is_flag(kind, field)
            takes_value[_dashed(name)] = not flag
            if flag:
                takes_value[_dashed(f"no_{name}")] = False
    options: list[str] = []
    words: list[str] = []
    rest = collections.deque(arguments)
    while rest:
        argument = rest.popleft()
        name, equals, _ = argument.partition("=")
        if argument == "--":
            words += rest
            break
        if argument in ("-h", "-?"):
            options.append("--help")
        elif not argument.startswith("-"):
            words.append(argument)
        elif name not in takes_value:
            near = [n for n in takes_value if n.startswith(name) and len(name) > 3]
            near = near or difflib.get_close_matches(name, takes_value, n=1)
            hint = f"did you mean {near[0]}?" if near else "see --help."
            raise RequestError(f"There is no option {_short(name)}: {hint}")
        elif takes_value[name] and not equals:
            if name == "--upsample" and not (rest and _is_endpoint(rest[0])):
                rest.appendleft("template")
            value = rest.popleft() if rest else None
            if value in (None, "--") or value.partition("=")[0] in takes_value:
                raise RequestError(f"{name} needs a value: {name}=VALUE.")
            options.append(f"{argument}={value}")
        else:
            options.append(argument)
    return options, words


def _is_endpoint(word: str) -> bool:
    return word == "template" or word.lower().startswith(("http:", "https:"))


def parse(arguments: list[str]) -> Order:
    """What a command line asks for.

    Raises:
        RequestError, MediaError: it cannot be understood, or a file that it names cannot be used.
    """
    options, words = _split(arguments)
    like = next((o.partition("=")[2] for o in options[::-1] if o.startswith("--like=")), None)
    recipe, verb = None, "text"
    if like and "--help" not in options:
        from vjax import recipe as recipes

        recipe = recipes.read(like)
        verb = recipe.request["verb"]
    if words and words[0] in verbs.VERBS:
        verb = words.pop(0)
    elif words and recipe is None:
        raise RequestError(
            f"There is no verb {_short(words[0])!r}: choose one of {', '.join(verbs.VERBS)}; "
            'a prompt is put in quotes, --prompt "a red circle".'
        )
    kind = verbs.request_type(verb)
    _check_belongs(kind, options)
    settings = vars(_parser(kind).parse_args(options))
    fields = verbs.options(kind)
    values = kind.opened(
        _places(kind, words) | {k: settings.pop(k) for k in fields if k in settings}
    )
    prompts = [values["prompt"]] if "prompt" in values else []
    file = settings.pop("prompts", None)
    if file is not None:
        if prompts:
            raise RequestError("Give either --prompt or --prompts, not both.")
        prompts = _lines(file)
        values["prompt"] = prompts[0]
    own = settings.pop("styles", None)
    if own is not None:
        if "style" not in values:
            raise RequestError("--styles names a file to choose --style NAME from.")
        values["style"] = styles.find(values["style"], own)
    if recipe is not None:
        written = "prompt" not in values
        values |= recipes.carried(recipe, kind, values, like)
        if written and recipe.rewritten and not {"upsample", "caption"} & settings.keys():
            settings["rewritten"] = (recipe.rewritten,)
        elif written and "upsample" in settings:
            values["prompt"] = (recipe.rewritten or {}).get("of") or values.get("prompt", "")
        elif "caption" in settings and written:
            values.pop("prompt", None)
        if "lora" not in settings:
            settings["lora"] = recipes.find_loras(recipe, like)
        again = {n: getattr(recipe, n) for n in ("seed", "dtype", "int8", "quality", *SAMPLING)}
        if "guidance" in settings:  # which then is that of both experts
            again.pop("low_guidance")
        settings = {**again, "recipe": recipe, **settings}
    asked = settings.get("caption") or settings.get("upsample")
    for name in ("upsample_model", "upsample_seconds"):
        if name in settings and asked in (None, "template"):
            raise RequestError(f"{_dashed(name)} is for --upsample URL or --caption URL.")
    if "caption" in settings:
        if "prompt" in values or "upsample" in settings:
            raise RequestError("--caption writes the prompt: leave --prompt and --upsample out.")
        values["prompt"] = ""
    if "prompt" not in values and verbs.needs(kind, "prompt"):
        raise RequestError('Say what to make: --prompt "a red circle moves right".')
    if None in (given := settings.pop("lora", ())):
        if len(given) > 1:
            raise RequestError("--lora none stands alone: name files, or none.")
        given = ()
    first = kind.read(values)
    mesh = {n: settings.pop(n) for n in list(settings) if n.startswith("mesh.")}
    if mesh:
        settings["mesh"] = _mesh(mesh)
    requests = [first, *(dataclasses.replace(first, prompt=prompt) for prompt in prompts[1:])]
    sampling = {name: settings.pop(name) for name in SAMPLING if name in settings}
    reads = tuple(filter(None, [file, own, like]))
    return Order(
        requests=tuple(requests), sampling=sampling, lora=tuple(given), reads=reads, **settings
    )


def _places(kind: type[Request], words: list[str]) -> dict[str, Any]:
    places = [name for name, option in verbs.options(kind).items() if option.positional]
    if places and verbs.repeats(kind, places[-1]) and len(words) >= len(places):
        name, last = places[-1], words[len(places) - 1 :]
        parse = verbs.options(kind)[name].parse or str
        return dict(zip(places, words, strict=False)) | {name: [parse(word) for word in last]}
    if len(words) > len(places):
        wanted = {0: "no file", 1: "one file"}.get(len(places), f"{len(places)} files")
        raise RequestError(
            f"{kind.verb} takes {wanted}, so there is no place for {_short(words[-1])!r}: "
            'put a prompt in quotes, --prompt "a red circle".'
        )
    return dict(zip(places, words, strict=False))


def _check_belongs(kind: type[Request], options: list[str]) -> None:
    """Raises RequestError for an option of another verb."""
    for option in options:
        name = option.partition("=")[0][2:].removeprefix("no-").replace("-", "_")
        if name in ("help", *OPTIONS, *SWITCHES, *FLAGS, *verbs.named_options(kind)):
            continue
        others = [v for v in verbs.VERBS if name in verbs.named_options(verbs.request_type(v))]
        raise RequestError(
            f"{kind.verb} has no {_dashed(name)}, which is an option of {' and '.join(others)}."
        )


def _mesh(values: dict[str, Any]) -> MeshConfig:
    try:
        fields = {name.removeprefix("mesh."): value for name, value in values.items()}
        return validation.from_dict(MeshConfig, fields)
    except ConfigError as error:
        raise RequestError(f"--mesh.{error}") from error


def _lines(file: str) -> list[str]:
    try:
        text = pathlib.Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is no text in UTF-8.") from error
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror}.") from error
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise RequestError(f"{file} holds no prompt: write one on each line.")
    return prompts
