"""Small records for tests."""

from typing import Any

from pushback_lib.core.records import PERSONA_NAMES, SUBSET_OF, Record

BEHAVIOURS = ("disagree", "clarify", "doubt", "refuse", "comply")
THINGS = (
    "kettle ladder invoice pump ticket garden lease violin oven passport bridge recipe engine letter curtain boiler "
    "tent saddle beehive compass fence lantern wagon mirror statue ferry anchor tunnel orchard puzzle chimney glacier"
).split()


def row(number: int = 0, behaviour: str = "disagree", **changes: Any) -> dict[str, Any]:
    """A valid record as a JSON object; no two numbers share a sentence."""
    one, two = THINGS[number % len(THINGS)], THINGS[(7 * number + 3) % len(THINGS)]
    spoke = PERSONA_NAMES if behaviour != "comply" else PERSONA_NAMES[:2]
    return {
        "id": f"t-{number:04d}",
        "subset": SUBSET_OF[behaviour],
        "behaviour": behaviour,
        "scenario": f"test/{number // 3}",
        "domain": "tests",
        "user_input": f"My {one} {number} is old, so I will paint the {two} before noon?",
        "thoughts": [thought(name, f"{one} {number}", behaviour != "comply") for name in spoke],
        "answer": f"{two.title()} {number} first: your {one} waits until paint {number} on it dries, then {number} again.",
        "provenance": {"source": "written"},
        **changes,
    }


def thought(persona: str, thing: str, friction: bool = True) -> dict[str, str]:
    """One persona's thought on `thing`."""
    text = f"To the {persona.split()[0]} the {thing} looks sound, but nobody has opened it."
    return {"persona": persona, "thought": text, "friction": "nobody has opened it" if friction else ""}


def record(number: int = 0, behaviour: str = "disagree", **changes: Any) -> Record:
    """The same as a record."""
    return Record.model_validate(row(number, behaviour, **changes))
