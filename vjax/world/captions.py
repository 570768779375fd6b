"""Says the facts of a clip in words."""

import re
from collections.abc import Iterable

import numpy as np

from vjax.world.facts import Facts, Shot, Thing

# The first wording is the plain one; captions choose among them all.
COLOR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "white": ("white", "snowy"),
}
SHAPE_WORDS = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star", "five-pointed star"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
}
MOTION_WORDS = {
    "still": ("stays still", "does not move", "rests", "stands still"),
    "left": ("moves left", "drifts to the left", "slides left", "travels to the left"),
    "right": ("moves right", "drifts to the right", "slides right", "travels to the right"),
    "up": ("moves up", "rises", "floats upward", "goes up"),
    "down": ("moves down", "falls", "sinks downward", "goes down"),
    "bounces": ("bounces", "bounces up and down", "hops up and down"),
    "circles": ("circles around", "moves in a circle", "orbits around"),
    "spins": ("spins", "rotates", "turns around itself", "twirls"),
    "grows": ("grows", "gets bigger", "becomes larger"),
    "shrinks": ("shrinks", "gets smaller", "becomes smaller"),
}
BACKGROUND_WORDS = {
    "black": ("on a black background", "on black", "against a black backdrop"),
    "gray": ("on a gray background", "on gray", "against a grey backdrop"),
    "sky": ("in the sky", "in a blue sky", "across a daytime sky", "against a sky with clouds"),
    "sunset": ("at sunset", "in a sunset sky", "in front of a sunset"),
    "night": ("at night", "across a night sky", "under the stars", "in a starry night"),
    "grass": ("on grass", "over green grass", "on a lawn", "on a meadow"),
}
CAMERA_WORDS = {
    "static": ("the camera does not move", "static camera"),
    "pan left": ("the camera pans left", "camera panning to the left"),
    "pan right": ("the camera pans right", "camera panning to the right"),
    "zoom in": ("the camera zooms in", "slow zoom in"),
    "zoom out": ("the camera zooms out", "slow zoom out"),
}
STYLE_WORDS = {
    "flat": ("flat style", "flat colors"),
    "outline": ("outline style", "drawn as an outline", "line drawing"),
    "neon": ("neon style", "glowing neon"),
    "pixel": ("pixel art", "pixel style"),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "above": ("above", "over"),
    "behind": ("behind", "partly hidden behind"),
}
WALL_WORDS = (
    "passes behind a wall",
    "passes behind a wall and comes out again",
    "goes behind the wall and reappears",
)
CUT_WORDS = ("cut to", "then cut to", "next shot")
_LONG_OPENINGS = (
    "",
    "",
    "a short clip of ",
    "this video shows ",
    "a simple animation: ",
    "we see ",
)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _say(rng: np.random.Generator, words: tuple[str, ...], plain: float = 0.5) -> str:
    return words[0] if rng.uniform() < plain else str(rng.choice(words))


def _name(rng: np.random.Generator, thing: Thing) -> str:
    return f"{_say(rng, COLOR_WORDS[thing.color])} {_say(rng, SHAPE_WORDS[thing.shape])}"


def _say_shot(rng: np.random.Generator, shot: Shot, long: bool, moving: bool, name: str) -> str:
    first = shot.things[0]
    # A thing that stays still often goes without saying.
    says_motion = moving and (first.motion != "still" or long or rng.uniform() < 0.5)
    motion = _say(rng, MOTION_WORDS[first.motion]) if says_motion else ""
    if shot.wall:
        # All is drawn in any case: a seed's caption stays the same.
        says_side = rng.uniform() < 0.7 or long
        aside, behind = _say(rng, MOTION_WORDS[first.motion][:1]), _say(rng, WALL_WORDS)
        motion = f"{aside} and {behind}" if says_side else _say(rng, WALL_WORDS)
    words = [name]
    if motion:
        words.append(motion)
    if shot.relation is not None:
        words.append(
            f"{_say(rng, RELATION_WORDS[shot.relation])} {_article(_name(rng, shot.things[1]))}"
        )
    words.append(_say(rng, BACKGROUND_WORDS[shot.background]))
    text = " ".join(words)
    if moving and (shot.camera != "static" or (long and rng.uniform() < 0.2)):
        text += f", {_say(rng, CAMERA_WORDS[shot.camera])}"
    return text


def caption(facts: Facts, rng: np.random.Generator, *, long: bool, moving: bool = True) -> str:
    """Says the facts in words; two calls seldom choose the same ones.

    Args:
        long: a full sentence or two, rather than the few words a hurried user types.
        moving: False for a single frame, of which motion and camera cannot be told.
    """
    subject = facts.shots[0].things[0]
    name = _name(rng, subject)
    if long:
        # Two shots are long enough without one: the text encoder reads 36 tokens.
        opening = str(rng.choice(_LONG_OPENINGS)) if len(facts.shots) == 1 else ""
        text = opening + _say_shot(
            rng, facts.shots[0], len(facts.shots) == 1, moving, _article(name)
        )
    else:
        bare = rng.uniform() < 0.25
        text = _say_shot(rng, facts.shots[0], long, moving, name if bare else _article(name))
    for shot in facts.shots[1:]:
        text += f". {_say(rng, CUT_WORDS)}: {_say_shot(rng, shot, False, moving, 'the ' + name)}"
    two = len(facts.shots) == 2
    if facts.style != "flat" or (long and not two and rng.uniform() < 0.1):
        text += f", {_say(rng, STYLE_WORDS[facts.style])}"
    if rng.uniform() < 0.3:
        text = text[0].upper() + text[1:]
    return text + ("." if long or rng.uniform() < 0.2 else "")


def filled(text: str) -> str:
    """A caption of one shot with the motion and the background that it leaves out."""
    if any(cut in text.lower() for cut in CUT_WORDS):
        return text
    head, comma, rest = text.strip().rstrip(".").partition(",")
    moving = [*MOTION_WORDS.values(), WALL_WORDS]
    where = _first(head, BACKGROUND_WORDS.values())
    if _first(text, moving) is None:
        place = len(head) if where is None else where
        parts = head[:place].strip(), MOTION_WORDS["right"][0], head[place:].strip()
        head = " ".join(filter(None, parts))
    if _first(text, BACKGROUND_WORDS.values()) is None:
        head += f" {BACKGROUND_WORDS['black'][0]}"
    return head + comma + rest


def _first(text: str, table: Iterable[tuple[str, ...]]) -> int | None:
    """Where the first of the phrases begins that a text has."""
    phrases = "|".join(re.escape(phrase) for group in table for phrase in group)
    found = re.search(rf"\b({phrases})\b", text, re.IGNORECASE)
    return None if found is None else found.start()


def vocabulary() -> frozenset[str]:
    """Every word that a caption can contain, in lower case."""
    phrases = [*CUT_WORDS, *WALL_WORDS, *_LONG_OPENINGS, "a an the to and"]
    for table in (
        COLOR_WORDS,
        SHAPE_WORDS,
        MOTION_WORDS,
        BACKGROUND_WORDS,
        CAMERA_WORDS,
        STYLE_WORDS,
        RELATION_WORDS,
    ):
        phrases += [phrase for group in table.values() for phrase in group]
    return frozenset(word.strip(":.,") for phrase in phrases for word in phrase.split()) - {""}
