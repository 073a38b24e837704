"""The six personas of the inner debate, in speaking order; knows nothing about models or files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Persona:
    """A voice in the debate: its name, and the one thing it contributes."""

    name: str
    task: str


PERSONAS: tuple[Persona, ...] = (
    Persona("Problem Framer", "what is really asked, and what is assumed"),
    Persona("Memory Activator", "what experience or precedent says"),
    Persona("Mechanism Explorer", "how it would work, or fail"),
    Persona("Perspective Generator", "who would see it otherwise"),
    Persona("Limitation Acknowledger", "what is not known, and by whom"),
    Persona("Synthesizer", "what to do with all that"),
)

PERSONA_NAMES: tuple[str, ...] = tuple(persona.name for persona in PERSONAS)
