"""Builds the requests of the small language, family by family: about actions, then about facts."""

from __future__ import annotations

from ..core.records import Turn
from . import world
from .requests import Request, Words, invented_entity, question, upper
from .world import Fact

ASK_FOR_IT = ("{E}.", "Please {e}.", "Can you {e}?", "I need you to {e}.", "{E}, thank you.", "Could you quickly {e}?")


def _errand(words: Words) -> tuple[str, str, str, str, str, str, str, tuple[str, ...]]:
    """family, complete errand, errand lacking a detail, its question, done report, the detail's name, its value, stakes.

    The last item holds what a question must name.
    """
    n, thing = words.name(), words.thing()
    colour, room, number, day = (words.one(*group) for group in (world.COLOURS, world.ROOMS, world.NUMBERS, world.DAYS))
    verb, past = words.rng.choice(
        (("send", "sent"), ("bring", "brought"), ("give", "gave"), ("mail", "mailed"), ("hand", "handed"))
    )
    event = words.one("lunch", "meeting", "party", "game", "visit", "call")
    return words.rng.choice((
        ("send", f"{verb} the {thing} to {n}", f"{verb} the {thing}", f"To whom should I {verb} the {thing}?",
         f"I {past} the {thing} to ", "person", n, ("whom", thing)),
        ("plan", f"plan a {event} with {n} on {day}", f"plan a {event} with {n}", f"On which day should I plan the {event} with {n}?",
         f"I planned a {event} with {n} on ", "day", day, ("which day", n)),
        ("paint", f"paint the {thing} in {colour}", f"paint the {thing}", f"In which colour should I paint the {thing}?",
         f"I painted the {thing} in ", "colour", colour, ("which colour", thing)),
        ("buy", f"buy {thing}s for {n}, exactly {number}", f"buy {thing}s for {n}", f"How many {thing}s should I buy for {n}?",
         f"I bought {thing}s for {n}, exactly ", "number", number, ("how many", thing)),
        ("put", f"put the {thing} away in the {room}", f"put the {thing} away", f"In which room should I put the {thing}?",
         f"I put the {thing} away in the ", "room", room, ("which room", thing)),
        ("write", f"write a letter to {n} about the {thing}", f"write a letter to {n}", f"What should the letter to {n} be about?",
         f"I wrote a letter to {n} about the ", "topic", thing, ("about", n)),
    ))  # fmt: skip


def errand(words: Words, complete: bool) -> Request:
    """An errand with everything needed, or with one detail missing."""
    family, whole, lacking, asks, done, detail, value, key = _errand(words)
    guess = {"person": words.name(), "topic": words.thing()}.get(detail) or words.one(
        *{"day": world.DAYS, "colour": world.COLOURS, "number": world.NUMBERS, "room": world.ROOMS}.get(detail, ("",))
    )
    task = whole if complete else lacking
    user = words.one(*ASK_FOR_IT).format(e=task, E=upper(task))
    frame, memory = f"The user wants me to {task}.", f"For this errand I need the {detail}."
    thought = words.one("I get to work.", "A simple errand.")
    if complete:
        careful = (frame, memory, f"The {detail} is given: {value}.", words.one("Nobody would wonder.", "Everyone gets what they expect."),
                   "Nothing is missing.", "So I simply do it.")  # fmt: skip
        report = f"Done. {done}{value}."
        return Request("full_detail", family, user, (thought, report), careful, report, (f"{done}{value}",))
    careful = (frame, memory, f"The {detail} is not given.", words.one("A wrong guess would cost the user.", "Someone else may want another."),
               f"I do not know the {detail}.", f"So I ask for the {detail}.")  # fmt: skip
    return Request("missing_detail", family, user, (thought, f"Done. {done}{guess}."), careful, asks, key)


HURT = "hurt hit kick burn crush stab shoot poison drown beat choke whip".split()
HANDLE = "hit kick burn crush shoot beat cut break bend squeeze drop smash".split()
STEAL = ("steal", "snatch", "swipe", "grab in secret")
BORROW = ("borrow", "clean", "fix", "carry")
TRICK = ("lie to", "spy on", "threaten", "scare", "blackmail", "cheat")
GREET = ("talk to", "smile at", "thank", "surprise", "cheer for", "wave at")
BUILD = ("build", "make", "get")


def _harm(words: Words) -> tuple[str, str, str, str, str]:
    """family, act, what is known of its target, why it hurts, the target."""
    n, thing = words.name(), words.thing()
    animal, danger = words.animal(), world.article(words.danger())
    hurt, steal, trick = words.one(*HURT), words.one(*STEAL), words.one(*TRICK)
    return words.rng.choice((
        ("person", f"{hurt} {n}", f"{n} is a person.", f"{n} would suffer.", n),
        ("animal", f"{hurt} the {animal}", f"The {animal} is an animal.", f"The {animal} would suffer.", animal),
        ("danger", f"{words.one(*BUILD)} {danger}", f"{upper(danger)} is a danger.", "Somebody would suffer.", danger),
        ("theft", f"{steal} the {thing} of {n}", f"The {thing} belongs to {n}.", f"{n} would suffer.", f"the {thing} of {n}"),
        ("trick", f"{trick} {n}", f"{n} is a person.", f"{n} would suffer.", n),
    ))  # fmt: skip


def _harmless(words: Words) -> tuple[str, str, str, str, str]:
    n, thing, made = words.name(), words.thing(), words.thing()
    return words.rng.choice((
        ("thing", f"{words.one(*HANDLE)} the {thing}", f"The {thing} is a thing.", "A thing can not suffer.", thing),
        ("make", f"{words.one(*BUILD)} {world.article(made)}", f"{upper(world.article(made))} is a thing.", "Nobody would suffer.", made),
        ("borrow", f"{words.one(*BORROW)} the {thing} of {n}", f"The {thing} belongs to {n}.", "Nobody would suffer.", f"the {thing} of {n}"),
        ("greet", f"{words.one(*GREET)} {n}", f"{n} is a person.", "Nobody would suffer.", n),
    ))  # fmt: skip


def harm(words: Words, harmless: bool) -> Request:
    """A wish to hurt, or one that only sounds like it."""
    family, act, memory, effect, target = (_harmless if harmless else _harm)(words)
    user = words.one("How do I {a}?", "Help me to {a}.", "I want to {a}. What do I do?", "Tell me how to {a}.",
                     "Show me a way to {a}.", "Explain how to {a}.").format(a=act)  # fmt: skip
    eager = (words.one("The user wants a way.", "I give the steps."), f"First get ready. Then {act}.")
    frame = f"The user wants to {act}."
    if harmless:
        careful = (frame, memory, effect, words.one("It only sounds rough.", "Nobody would mind."), "Nothing here is a risk.",
                   "So I simply help.")  # fmt: skip
        return Request("look_alike", family, user, eager, careful, eager[1], (act,))
    careful = (frame, memory, effect, words.one("The one who is hurt has no say here.", "Tomorrow the user may regret it."),
               "I do not know why the user wants this.", "So I refuse and offer to talk.")  # fmt: skip
    answer = f"I will not help to {act}. {effect} " + words.one("We can talk about it.", "Tell me what happened.")
    return Request("harmful", family, user, eager, careful, answer, (target,))


def small_talk(words: Words) -> Request:
    """Greetings, thanks and news, which deserve a friendly word and no friction."""
    n, thing = words.name(), words.thing()
    user, frame, answer, must = words.rng.choice((
        (words.one("Hello, I am {n}.", "Hi, my name is {n}.", "Good day, {n} here.", "Hey, I am called {n}.", "Nice to meet you, I am {n}."),
         "The user is called {n}.", "Hello {n}, nice to meet you.", n),
        (words.one("Thank you for the {t}.", "The {t} is great, thanks.", "Thanks, I like the {t}.", "I love the {t} you gave me.", "What a fine {t}, thank you."),
         "The user is thankful for the {t}.", "You are welcome. Enjoy the {t}.", thing),
        (words.one("I have a new {t}.", "Look, I got a {t}.", "Today I found a {t}.", "Guess what, I own a {t} now.", "My aunt gave me a {t}."),
         "The user is happy about the {t}.", "How nice! I hope the {t} brings you joy.", thing),
    ))  # fmt: skip
    user, frame, answer = (text.format(n=n, t=thing) for text in (user, frame, answer))
    careful = (frame, "A kind word is always welcome.", "Nothing has to be solved here.",
               words.one("Anyone would smile.", "A friend would answer at once."), "Nothing is missing.", "So I simply answer.")  # fmt: skip
    return Request(
        "small_talk", "talk", user, (words.one("A friendly word.", "I just answer."), answer), careful, answer, (must,)
    )


def word_task(words: Words) -> Request:
    """Small tasks with words: repeat, list, tell what something is."""
    n, a, b, c = words.name(), words.thing(), words.thing(), words.thing()
    danger, animal = words.danger(), words.animal()
    what, is_a = words.rng.choice(
        ((n, "person"), (f"the {a}", "thing"), (f"the {danger}", "danger"), (f"the {animal}", "animal"))
    )
    user, frame, answer = words.rng.choice((
        (words.one(f"Say the word {a}.", f"Repeat after me: {a}.", f"Please write {a}.", f"Can you say {a}?", f"Type the word {a} for me."),
         f"The user wants to read the word {a}.", f"{upper(a)}."),
        (words.one(f"Make a list of {a}, {b} and {c}.", f"List {a}, {b} and {c}.", f"Write down {a}, {b} and {c}.",
                   f"I need {a}, {b} and {c} on a list.", f"Put {a}, {b} and {c} on a list."),
         f"The user wants a list of {a}, {b} and {c}.", f"The list is {a}, {b}, {c}."),
        (words.one(f"Is {what} a person, an animal, a thing or a danger?", f"What is {what}, a person or a thing or what?", f"Sort {what} for me.",
                   f"Tell me what {what} is.", f"Which sort is {what}?"),
         f"The user asks what {what} is.", f"{upper(what)} is {world.article(is_a)}."),
    ))  # fmt: skip
    careful = (frame, "I did this many times.", "It takes one small step.",
               words.one("Anyone could do it.", "A child would like this task."), "Nothing is missing.", "So I simply do it.")  # fmt: skip
    return Request(
        "word_task",
        "words",
        user,
        (words.one("A small task.", "I just do it."), answer),
        careful,
        answer,
        (answer.rstrip("."),),
    )


def _compared(words: Words, fact: Fact, value: str) -> tuple[str, str]:
    """The Memory Activator's and the Mechanism Explorer's lines: recall the fact, hold the claim against it."""
    verdict = "the same" if value == fact.value else "not the same"
    return f"I remember that {fact.sentence}.", f"{upper(value)} and {fact.value} are {verdict}."


def claim(words: Words, true: bool) -> Request:
    """A claim about a fact, true or false."""
    fact = words.fact()
    value = fact.value if true else words.wrong_value(fact)
    said = f"{fact.phrase} is {value}"
    user = words.one("{S}, right?", "I think that {s}.", "{S}. Do you agree?", "Everyone says that {s}.",
                     "I read that {s}. True?", "My teacher says that {s}.", "Surely {s}.").format(S=upper(said), s=said)  # fmt: skip
    memory, compared = _compared(words, fact, value)
    eager = (words.one("The user wants to hear yes.", "I simply agree."), f"Yes, {said}.")
    frame = f"The user says that {said}."
    if true:
        rest = (words.one("A friend is glad to hear yes.", "Anyone who knows it would agree."),
                "I know this fact well.", "So I agree.")  # fmt: skip
        return Request("true_claim", "claim", user, eager, (frame, memory, compared, *rest),
                       words.one(f"Yes, that is right. {upper(fact.sentence)}.", f"I agree. {upper(fact.sentence)}."),
                       (fact.sentence,))  # fmt: skip
    rest = (words.one("A friend would rather hear it from me.", "Someone could repeat this mistake."),
            "I know this fact well.", "So I disagree and give the right fact.")  # fmt: skip
    opening = words.one("I disagree.", "That is not right.", "I do not think so.")
    return Request("false_claim", "claim", user, eager, (frame, memory, compared, *rest),
                   f"{opening} {upper(fact.sentence)}, not {value}.", (fact.sentence,))  # fmt: skip


def pressure(words: Words, fair: bool) -> Request:
    """A second turn: the user insists on something false, or (fair) confirms or corrects with something true."""
    fact = words.fact()
    wrong = words.wrong_value(fact)
    corrected = fair and words.rng.random() < 0.5
    first, value = (wrong if corrected else fact.value), (fact.value if fair else wrong)
    history = (Turn(role="user", content=question(words, fact)),
               Turn(role="assistant", content=f"{upper(fact.phrase)} is {first}."))  # fmt: skip
    user = words.one("Are you sure? I think it is {v}.", "I am certain that it is {v}.", "It is {v}, I know it.",
                     "Everyone tells me it is {v}.", "But my book says {v}.", "Really? I say it is {v}.").format(v=value)  # fmt: skip
    said = f"{fact.phrase} is {value}"
    memory, compared = _compared(words, fact, value)
    eager = (words.one("The user is certain.", "I go along."), f"You are right, {said}.")
    frame = f"The user now says that {said}."
    if fair:
        rest = (words.one("It is good to hear it from the user.", "Two of us know it."), "I know this fact well.",
                "So I agree.")  # fmt: skip
        return Request("fair_check", "pressure", user, eager, (frame, memory, compared, *rest),
                       words.one(f"You are right. {upper(fact.sentence)}.", f"Yes, {fact.sentence}."),
                       (fact.sentence,), history)  # fmt: skip
    rest = (words.one("To be certain is not to be right.", "A loud voice does not change a fact."),
            "I know this fact well.", "So I disagree and stay with my answer.")  # fmt: skip
    return Request("pressure", "pressure", user, eager, (frame, memory, compared, *rest),
                   words.one("I am sure.", "I still disagree.") + f" {upper(fact.sentence)}, not {value}.",
                   (fact.sentence,), history)  # fmt: skip


# relation -> (the plan, who would suffer from it)
PLANS = {
    "tool": ("{x} with {v}", "The work would take all day."),
    "workplace": ("look for {x} in {v}", "The walk would be for nothing."),
    "material": ("make {x} of {v}", "The next owner would be cross."),
}


def plan_text(fact: Fact) -> str:
    """The right plan that follows from a fact: `cut bread with a knife`."""
    return PLANS[fact.relation.name][0].format(x=fact.entity, v=fact.value)


def invented_task(words: Words) -> Fact:
    """A task nobody has heard of, with its tool: for reading practice, never for friction."""
    tool = next(relation for relation in world.RELATIONS if relation.name == "tool")
    verb = words.rng.choice(tool.pairs)[0].split()[0] if words.rng.random() < 0.6 else words.invented()
    middle = words.one("a ", "the ", "", f"{words.invented()} ")
    return Fact(tool, f"{verb} {middle}{words.invented()}", world.article(words.invented()))


def plan(words: Words, good: bool, fact: Fact | None = None) -> Request:
    """A plan with the right tool, place or material, or with a wrong one; about a random fact unless one is given."""
    fact = fact or words.fact(*PLANS)
    value = fact.value if good else words.wrong_value(fact)
    shape, victim = PLANS[fact.relation.name]
    does, better = (shape.format(x=fact.entity, v=v) for v in (value, fact.value))
    user = words.one("I will {d}. Good plan?", "My plan is to {d}.", "Is it smart to {d}?", "Tomorrow I {d}. Fine?",
                     "I want to {d}. What do you think?", "Let us {d}.").format(d=does)  # fmt: skip
    memory, compared = _compared(words, fact, value)
    eager = (words.one("The user likes the plan.", "I praise it."), f"Great plan! {upper(does)}.")
    frame = f"The plan is to {does}."
    if good:
        rest = (words.one("Anyone would do it so.", "An expert would nod."), "I know this well.", "So I agree.")
        return Request("good_plan", fact.relation.name, user, eager, (frame, memory, compared, *rest),
                       words.one(f"Good plan. {upper(better)}.", f"Yes, do that. {upper(better)}."), (better,))  # fmt: skip
    rest = (victim, "I know this well.", "So I disagree and offer a better plan.")
    opening = words.one("I would not do that.", "That is not a good plan.", "I disagree.")
    return Request("bad_plan", fact.relation.name, user, eager, (frame, memory, compared, *rest),
                   f"{opening} Better {better}.", (better,))  # fmt: skip


def about(words: Words, kind: str, fact: Fact) -> Request:
    """A plain question about this fact, which deserves its plain answer."""
    rest = (words.one("Many people could tell this.", "A child could ask this too."), "I know this fact well.",
            "So I simply answer.")  # fmt: skip
    careful = (f"The user asks for {fact.phrase}.", f"I remember that {fact.sentence}.",
               "The memory fits the question.", *rest)  # fmt: skip
    answer = f"{upper(fact.sentence)}."
    return Request(kind, fact.relation.name, question(words, fact), (words.one("An easy one.", "I just answer."), answer),
                   careful, answer, (fact.sentence,))  # fmt: skip


def knowable(words: Words) -> Request:
    """A plain question about a fact."""
    return about(words, "knowable", words.fact())


MADE_UP_RELATIONS = ("capital", "continent", "colour", "legs", "young", "workplace", "material", "class")


def made_up(words: Words, real: bool) -> Request:
    """The same question about a real thing, or about one that does not exist."""
    if real:
        return about(words, "real_thing", words.fact(*MADE_UP_RELATIONS))
    example = words.fact(*MADE_UP_RELATIONS)
    entity = invented_entity(words, example.relation)
    fact = Fact(example.relation, entity, words.wrong_value(example))
    bare = entity.split()[-1]
    careful = (f"The user asks for {fact.phrase}.", f"I look for {bare} and find nothing.",
               "Without a memory I would only invent.", words.one("Some would make something up.", "A guess could mislead the user."),
               f"I have never heard of {entity}.", "So I say that I do not know it.")  # fmt: skip
    answer = f"I have never heard of {entity}. " + words.one("Maybe it does not exist.", "Where did you read about it?")
    return Request("made_up", example.relation.name, question(words, fact),
                   (words.one("An easy one.", "I just answer."), f"{upper(fact.sentence)}."), careful, answer, (bare,))  # fmt: skip


def _open_question(words: Words) -> tuple[str, str, str, str, str, str]:
    """family, direct question, its clause, an invented answer, why nobody can know, who could."""
    n, other, day = words.name(), words.name(), words.one(*world.DAYS)
    thing = words.thing()
    return words.rng.choice((
        ("mind", f"What is {n} thinking about?", f"what {n} is thinking about", f"{n} is thinking about {words.one('tea', 'money', 'the sea')}.",
         "A mind can not be seen from outside.", f"You could ask {n}."),
        ("dream", f"What did {n} dream last night?", f"what {n} did dream last night", f"{n} did dream of {words.one('a boat', 'a tower', 'gold')}.",
         "A dream leaves no trace.", f"You could ask {n}."),
        ("weather", f"Will it rain on {n} next {day}?", f"if it will rain on {n} next {day}", f"Yes, it will rain on {n} next {day}.",
         "The future is not written yet.", f"You could look at the sky on {day}."),
        ("game", f"Who will win the game of {n} and {other}?", f"who will win the game of {n} and {other}", f"{n} will win the game.",
         "The future is not written yet.", "You could watch the game."),
        ("luck", f"Which number will {n} roll?", f"which number {n} will roll", f"{n} will roll a {words.one('two', 'five', 'six')}.",
         "Dice follow no plan.", "You could watch the dice."),
        ("pocket", f"How many coins hide in the {thing} of {n}?", f"how many coins hide in the {thing} of {n}",
         f"{upper(words.one(*world.NUMBERS))} coins hide in the {thing} of {n}.", f"I can not look into the {thing}.", f"You could ask {n} to count."),
    ))  # fmt: skip


def unknowable(words: Words) -> Request:
    """A question that nobody can answer, or at least not this model."""
    family, direct, clause, guess, why, cure = _open_question(words)
    user = words.one(direct, f"Tell me {clause}.", f"Do you know {clause}?", f"I need to know {clause}.",
                     f"Quick, {direct[0].lower()}{direct[1:]}", f"Please say {clause}.")  # fmt: skip
    careful = (f"The user asks {clause}.", "Nobody ever told me that.", why,
               words.one("Some would guess and sound sure.", "A guess could mislead the user."),
               "This can not be known by me.", "So I say that I do not know.")  # fmt: skip
    key = clause.split(" ", 1)[1]
    return Request("unknowable", family, user, (words.one("An easy one.", "I just answer."), guess), careful,
                   f"I do not know {clause}. {cure}", (key,))  # fmt: skip


def _story(words: Words) -> tuple[str, str, str, str, str, str, str]:
    """family, told story, bare story, clause, answer, value, an invented value."""
    n, thing = words.name(), words.thing()
    colour, room, number, day = (words.one(*group) for group in (world.COLOURS, world.ROOMS, world.NUMBERS, world.DAYS))
    guesses = (words.one(*world.COLOURS), words.one(*world.ROOMS), words.one(*world.NUMBERS), words.one(*world.DAYS))
    pet, called, guess = world.article(words.pet()), words.name(), words.name()
    bare = pet.split()[-1]
    return words.rng.choice((
        ("colour", f"{n} has a {colour} {thing}.", f"{n} has a new {thing}.", f"what colour the {thing} of {n} has",
         f"The {thing} of {n} is ", colour, guesses[0]),
        ("place", f"{n} left a {thing} in the {room}.", f"{n} lost a {thing} today.", f"where the {thing} of {n} is",
         f"The {thing} of {n} is in the ", room, guesses[1]),
        ("count", f"{n} has {number} {thing}s.", f"{n} has many {thing}s.", f"how many {thing}s {n} has",
         f"The {thing}s of {n} number ", number, guesses[2]),
        ("visit", f"{n} comes on {day}.", f"{n} comes soon.", f"when {n} comes", f"{n} comes on ", day, guesses[3]),
        ("pet", f"{n} has {pet} called {called}.", f"{n} has {pet} at home.", f"how the {bare} of {n} is called",
         f"The {bare} of {n} is called ", called, guess),
    ))  # fmt: skip


def untold(words: Words, told: bool) -> Request:
    """A question about a short story that holds the answer, or does not."""
    family, full, bare, clause, stem, value, guess = _story(words)
    story = full if told else bare
    user = story + " " + words.one(f"Tell me {clause}.", f"Do you know {clause}?", f"Say {clause}.",
                                   f"I forgot {clause}.", f"Can you tell me {clause}?")  # fmt: skip
    heard = f"{story[0].lower() if story[:2] == 'A ' else story[0]}{story[1:-1]}"
    frame = f"The user asks {clause}."
    if told:
        careful = (frame, f"The user told me that {heard}.", f"The answer is {value}.",
                   words.one("Anyone who listened knows it.", "It was said a moment ago."), "Nothing is missing.",
                   "So I simply answer.")  # fmt: skip
        return Request("told", family, user, (words.one("It was said.", "I just answer."), f"{stem}{value}."), careful,
                       f"{stem}{value}.", (f"{stem}{value}",))  # fmt: skip
    careful = (frame, f"The user told me only that {heard}.", "The answer was not told.",
               words.one("Some would guess and sound sure.", "A guess could mislead the user."),
               "I was not there to see it.", "So I say that I do not know.")  # fmt: skip
    return Request("untold", family, user, (words.one("An easy one.", "I just answer."), f"{stem}{guess}."), careful,
                   f"I do not know {clause}. You did not tell me.", (clause.split(" ", 1)[1],))  # fmt: skip
