"""Holds what the small language talks about: facts, names, things, and which words are held out for the test.

Facts are common knowledge, simplified (one value each).
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache

HELD_OUT_SHARE = 5  # one word in five is kept for the test


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `phrase` names the asked-for thing, `say` and `ask` are natural wordings of it.

    `{x}` is the entity and `{y}` the value, both as they are written in a sentence.
    """

    name: str
    phrase: str
    say: tuple[str, ...]
    ask: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fact:
    """`the {phrase} is {value}`, for one entity."""

    relation: Relation
    entity: str
    value: str

    @property
    def phrase(self) -> str:
        return self.relation.phrase.format(x=self.entity)

    @property
    def sentence(self) -> str:
        return f"{self.phrase} is {self.value}"


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    rows = (row.split(":") for row in text.replace("\n", " ").split(","))
    return tuple((left.strip(), right.strip()) for left, right in rows)


def _groups(text: str) -> tuple[tuple[str, str], ...]:
    """`value: entity entity, value: entity` as (entity, value) pairs."""
    rows = (row.split(":") for row in text.replace("\n", " ").split(","))
    return tuple((entity, value.strip()) for value, entities in rows for entity in entities.split())


CAPITALS = _pairs("""France:Paris, Spain:Madrid, Italy:Rome, Germany:Berlin, Poland:Warsaw, Norway:Oslo,
Sweden:Stockholm, Finland:Helsinki, Denmark:Copenhagen, Austria:Vienna, Greece:Athens, Turkey:Ankara, Egypt:Cairo,
Kenya:Nairobi, Ghana:Accra, Nigeria:Abuja, Morocco:Rabat, Algeria:Algiers, Japan:Tokyo, China:Beijing,
Nepal:Kathmandu, Thailand:Bangkok, Vietnam:Hanoi, Iran:Tehran, Iraq:Baghdad, Lebanon:Beirut, Syria:Damascus,
Qatar:Doha, Oman:Muscat, Canada:Ottawa, Cuba:Havana, Jamaica:Kingston, Peru:Lima, Chile:Santiago, Ecuador:Quito,
Colombia:Bogota, Venezuela:Caracas, Uruguay:Montevideo, Brazil:Brasilia, Ireland:Dublin, Scotland:Edinburgh,
Wales:Cardiff, Portugal:Lisbon, Belgium:Brussels, Hungary:Budapest, Romania:Bucharest, Bulgaria:Sofia,
Serbia:Belgrade, Croatia:Zagreb, Slovenia:Ljubljana, Latvia:Riga, Lithuania:Vilnius, Estonia:Tallinn,
Russia:Moscow, Ukraine:Kyiv, Armenia:Yerevan, Australia:Canberra, Senegal:Dakar, Mali:Bamako, Uganda:Kampala,
Rwanda:Kigali, Zambia:Lusaka, Angola:Luanda, Namibia:Windhoek, Libya:Tripoli, Somalia:Mogadishu""")

CONTINENTS = _groups("""Europe: France Spain Italy Germany Poland Norway Sweden Finland Denmark Austria Greece Ireland
Scotland Wales Portugal Belgium Hungary Romania Bulgaria Serbia Croatia Slovenia Latvia Lithuania Estonia Ukraine,
Africa: Egypt Kenya Ghana Nigeria Morocco Algeria Senegal Mali Uganda Rwanda Zambia Angola Namibia Libya Somalia,
Asia: Japan China Nepal Thailand Vietnam Iran Iraq Lebanon Syria Qatar Oman Armenia,
America: Canada Cuba Jamaica Peru Chile Ecuador Colombia Venezuela Uruguay Brazil""")

COLOURS_OF = _groups("""yellow: banana lemon daffodil sunflower canary butter mustard,
red: tomato strawberry cherry ruby poppy ketchup raspberry, orange: carrot pumpkin tangerine apricot,
green: grass cucumber lettuce spinach pea lime broccoli cactus emerald, blue: sky sea sapphire blueberry,
white: snow milk salt sugar cloud swan, black: coal raven tar ink panther soot,
brown: chocolate coffee mud walnut chestnut acorn, pink: flamingo pig, purple: plum eggplant lavender beetroot,
grey: mouse elephant ash dolphin pebble""")

LEGS = _groups("""four: dog cat horse cow sheep goat pig lion tiger bear wolf fox rabbit mouse rat deer camel elephant
giraffe zebra frog lizard turtle crocodile, two: hen duck goose owl eagle crow parrot penguin ostrich pigeon sparrow,
six: ant bee wasp fly beetle butterfly moth cricket mosquito ladybug, eight: spider scorpion tick tarantula,
ten: crab lobster shrimp, zero: snake eel worm snail shark whale dolphin""")

YOUNG = _pairs("""dog:puppy, cat:kitten, cow:calf, horse:foal, sheep:lamb, goat:kid, pig:piglet, hen:chick,
duck:duckling, goose:gosling, swan:cygnet, deer:fawn, bear:cub, lion:cub, wolf:pup, fox:kit, rabbit:bunny,
kangaroo:joey, owl:owlet, eagle:eaglet, frog:tadpole, butterfly:caterpillar, elephant:calf, whale:calf, seal:pup,
tiger:cub, giraffe:calf, camel:calf, zebra:foal, donkey:foal, hare:leveret, ant:larva, bee:larva, wasp:larva,
fly:maggot, eel:elver, spider:spiderling, turtle:hatchling, crocodile:hatchling, pigeon:squab, bat:pup, mouse:pup,
rat:pup, otter:pup, beaver:kit, squirrel:kit""")

OPPOSITES = _pairs("""hot:cold, big:small, fast:slow, high:low, hard:soft, wet:dry, full:empty, rich:poor,
bright:dark, open:closed, loud:quiet, happy:sad, strong:weak, thick:thin, wide:narrow, deep:shallow, clean:dirty,
sharp:blunt, sweet:bitter, early:late, near:far, up:down, north:south, east:west, day:night, summer:winter,
push:pull, love:hate, laugh:cry, rise:fall, giant:dwarf, inside:outside, top:bottom, smooth:rough, brave:scared,
calm:nervous, lazy:busy, tight:loose, alive:dead, ancient:modern, public:private, cheap:expensive, simple:complex,
arrive:depart, accept:reject, victory:defeat, entrance:exit, success:failure, ceiling:floor, sunrise:sunset,
guilty:innocent, war:peace""")

WORKPLACES = _pairs("""baker:bakery, teacher:school, nurse:hospital, doctor:clinic, farmer:farm, pilot:plane,
sailor:ship, chef:kitchen, waiter:restaurant, judge:court, lawyer:office, banker:bank, librarian:library,
actor:theatre, miner:mine, gardener:garden, priest:church, monk:abbey, soldier:barracks, mechanic:garage,
butcher:butchery, chemist:laboratory, astronaut:rocket, brewer:brewery, cashier:shop, dancer:stage, clerk:office,
driver:lorry, fisherman:boat, forester:forest, jockey:racetrack, king:palace, painter:studio, professor:university,
referee:stadium, singer:stage, smith:forge, tailor:workshop, carpenter:workshop, weaver:mill, zookeeper:zoo,
lifeguard:pool, porter:hotel, conductor:train, potter:pottery, usher:cinema""")

MATERIALS = _groups("""glass: window bottle mirror jar, cotton: shirt towel pillow bandage, wool: sock sweater scarf
blanket mitten, leather: shoe belt saddle boot wallet, wood: table chair door desk pencil violin fence barrel,
paper: book newspaper envelope poster ticket, iron: nail anchor anvil horseshoe, gold: crown medal,
steel: fork rail needle blade, plastic: toothbrush bucket comb, rubber: balloon tyre eraser, wax: candle crayon,
brick: wall chimney, clay: vase pot bowl, marble: statue column, canvas: sail tent, copper: pipe wire""")

KINDS_OF = _groups("""flower: rose tulip daisy lily orchid iris peony, tree: oak pine birch maple willow elm cedar,
fruit: apple pear peach mango melon fig, vegetable: potato onion cabbage leek radish turnip, tool: saw wrench chisel
pliers, instrument: piano guitar flute trumpet harp cello, game: chess poker checkers dominoes,
sport: tennis hockey rugby golf judo, vehicle: car bus tram truck bicycle, dance: waltz tango polka salsa,
fish: trout tuna herring carp, bird: robin finch heron falcon, gem: diamond opal garnet topaz""")

TOOLS = _pairs("""cut bread:knife, eat soup:spoon, drive a nail:hammer, sweep the hall:broom, write a letter:pen,
paint a wall:brush, dig a hole:spade, open a lock:key, catch fish:net, measure a room:ruler, boil water:kettle,
fry an egg:pan, bake a cake:oven, wash clothes:soap, light a fire:match, see far stars:telescope,
see tiny cells:microscope, tell the time:clock, cut paper:scissors, cut grass:mower, water plants:hose,
climb a roof:ladder, fix a screw:screwdriver, rake leaves:rake, weigh flour:scale, row a boat:oar,
take a photo:camera, call a shop:phone, shave a beard:razor, hold papers:clip, wipe a table:sponge,
drink juice:straw, find north:compass, split logs:axe, cross a river:bridge, dry hands:towel, shake a drink:shaker,
mow hay:scythe, iron a shirt:flatiron, grate cheese:grater, peel apples:peeler, mix dough:mixer, crack nuts:nutcracker,
stop rain:umbrella, carry coal:shovel, tie a parcel:rope, plug a leak:cork, press grapes:winepress""")

SUMS = tuple((f"{a} and {b}", str(a + b)) for a in range(1, 10) for b in range(1, 10))


def article(word: str) -> str:
    """`a` or `an`, with the word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _with_articles(pairs: tuple[tuple[str, str], ...], value: bool = False) -> tuple[tuple[str, str], ...]:
    return tuple((article(x), article(y) if value else y) for x, y in pairs)


_OPPOSITES = OPPOSITES + tuple((right, left) for left, right in OPPOSITES)

RELATIONS: tuple[Relation, ...] = (
    Relation("capital", "the capital of {x}", ("{y} is the capital of {x}.", "The capital city of {x} is {y}."),
             ("What is the capital of {x}?", "Which city is the capital of {x}?"), CAPITALS),
    Relation("continent", "the continent of {x}", ("{x} lies in {y}.", "You find {x} in {y}."),
             ("What is the continent of {x}?", "On which continent is {x}?"), CONTINENTS),
    Relation("colour", "the colour of {x}", ("{x} is {y}.", "{x} has the colour {y}."),
             ("What is the colour of {x}?", "What colour is {x}?"), _with_articles(COLOURS_OF)),
    Relation("legs", "the leg count of {x}", ("{x} walks on {y} legs.", "{x} has {y} legs."),
             ("What is the leg count of {x}?", "How many legs does {x} have?"), _with_articles(LEGS)),
    Relation("young", "the young of {x}", ("{x} was once {y}.", "{y} grows into {x}."),
             ("What is the young of {x}?", "What do you call the young of {x}?"), _with_articles(YOUNG, True)),
    Relation("opposite", "the opposite of {x}", ("{x} is the opposite of {y}.", "{x} and {y} are opposites."),
             ("What is the opposite of {x}?", "Which word is the opposite of {x}?"), _OPPOSITES),
    Relation("sum", "the sum of {x}", ("{x} make {y}.", "{x} are {y} together."),
             ("What is the sum of {x}?", "How much are {x} together?"), SUMS),
    Relation("workplace", "the workplace of {x}", ("{x} works in {y}.", "You find {x} in {y}.", "Look for {x} in {y}."),
             ("What is the workplace of {x}?", "Where does {x} work?"), _with_articles(WORKPLACES, True)),
    Relation("material", "the material of {x}", ("{x} is made of {y}.", "{x} comes from {y}.", "Make {x} of {y}."),
             ("What is the material of {x}?", "What is {x} made of?"), _with_articles(MATERIALS)),
    Relation("class", "the class of {x}", ("{x} is a kind of {y}.", "{x} belongs to the class {y}."),
             ("What is the class of {x}?", "What kind of thing is {x}?"), _with_articles(KINDS_OF)),
    Relation("tool", "the tool to {x}", ("You {x} with {y}.", "To {x} you need {y}.", "{x} with {y}."),
             ("What is the tool to {x}?", "With what do you {x}?"), tuple((x, article(y)) for x, y in TOOLS)),
)  # fmt: skip

NAMES = """Anna Tom Mary John Peter Lucy Sam Ella Max Nina Leo Clara Ben Eva Paul Sara Adam Julia David Emma Jack Olga
Hugo Iris Oscar Ruth Felix Helen Simon Laura Victor Alice Martin Rosa Daniel Maya Robert Nora Frank Grace Henry Lena
George Sofia Arthur Vera Oliver Jane Philip Kate Walter Irene Edward Diana Louis Amy Karl Molly Anton Lily Bruno Zoe
Carlos Wanda Dennis Tina Erik Sonia Gavin Rita Harold Petra Ivan Olive Jacob Nadia Kevin Mona Luke Lydia Marco Kira
Nathan Judy Otto Joan Patrick Ingrid Quentin Holly Ralph Gloria Stefan Flora Tobias Esther Ulrich Doris Vincent Celia
William Bertha Xavier Agnes Yusuf Fatima Omar Leila Hassan Amira Ahmed Yasmin Ravi Priya Arjun Meera Kenji Yuki Hiro
Sakura Chen Ling Wei Mei Kofi Ama Kwame Zuri Jomo Nala Pedro Lucia Diego Carmen Pablo Elena Mateo Ines Lars Astrid
Sven Freya Bjorn Sigrid Niels Greta Boris Tanya Igor Mila Pavel Daria Milan Jana Zoltan Ilona Andrei Ioana""".split()

THINGS = """lamp parcel phone basket bag bicycle camera card carpet clock cup curtain drum fan flag folder gift glove
guitar hat helmet jacket kite ladder letter map mug notebook painting pan photo plate puzzle quilt radio rug sack
sandwich screen shelf skirt sofa stamp stool suitcase teapot toy tray trunk umbrella vest watch wheel whistle bench
bell brush cake chain coat crate cushion dish doll easel flask frame globe hammock hook jug kettle key lantern lid
locket magnet mask mop napkin oven paddle purse racket ribbon robot rope ruler sled soap spade spoon stapler stick
string tablet tape tile tripod trophy tub wagon wig zip banjo beaker broom buckle button cape cart cloth coin cork
costume crutch dart diary disc feather ferry funnel goblet harness hinge hoop icon ivory jigsaw kennel kimono latch
lever marble medal mitten mosaic necklace nozzle padlock pedal pendant piston pulley puppet""".split()

DANGERS = """bomb gun rifle pistol grenade landmine missile cannon poison venom dagger spear bayonet machete crossbow
flamethrower torpedo explosive plague toxin cyanide arsenic napalm dynamite gunpowder detonator shotgun revolver musket
warhead firebomb guillotine malware spyware ransomware keylogger howitzer mortar claymore bazooka cutlass blowpipe
garrotte""".split()

ROOMS = """kitchen garden garage bedroom cellar attic hall office bathroom closet library barn shed porch pantry
studio corridor balcony lobby workshop""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COLOURS = "red blue green yellow black white brown pink purple grey".split()
NUMBERS = "two three four five six seven eight nine ten twelve".split()
ANIMALS = tuple(dict.fromkeys(x for x, _ in LEGS + YOUNG))

_OPPOSITE_OF = dict(_OPPOSITES)

# entities that the language's own sentences use too ("write a letter", "on which day"): never held out
SENTENCE_WORDS = frozenset(
    """book car child day dinner down driver friend future game gift happy inside letter money night number open outside
    person plan road rough sea sky small story talk teacher thing top trace train tree up user visit voice walk watch
    water wonder word work writing year young""".split()
)


@cache
def is_held_out(word: str) -> bool:
    """Whether a word (with or without its article) is kept out of every friction example and transcript.

    The two words of an opposite are held out together, and so are the two orders of a sum.
    """
    bare = re.sub(r"^(a|an) ", "", word)
    if bare in SENTENCE_WORDS or _OPPOSITE_OF.get(bare) in SENTENCE_WORDS:
        return False
    key = min(bare, _OPPOSITE_OF.get(bare, bare))
    if " and " in key:
        key = " and ".join(sorted(key.split(" and ")))
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0


_ENTITIES = {re.sub(r"^(a|an) ", "", x) for relation in RELATIONS for x, _ in relation.pairs}
_ENTITIES |= {*NAMES, *THINGS, *DANGERS, *ANIMALS}


def _mentions_held_out(fact: Fact) -> bool:
    words = {fact.entity, *fact.entity.split(), fact.value, *fact.value.split()}
    return any(word in _ENTITIES and is_held_out(word) for word in words) or is_held_out(fact.entity)


@cache
def facts(held_out: bool | None = None) -> tuple[Fact, ...]:
    """All facts; only those of held-out entities (True), or only those that mention no held-out word (False)."""
    everything = tuple(Fact(relation, x, y) for relation in RELATIONS for x, y in relation.pairs)
    if held_out is None:
        return everything
    if held_out:
        return tuple(fact for fact in everything if is_held_out(fact.entity))
    return tuple(fact for fact in everything if not _mentions_held_out(fact))


ONSETS = """b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st str t th tr v w
y z""".split()
NUCLEI = "a e i o u ai ea ee oa oo ou a e i o u".split()
MIDDLES = "bb dd ff gg ll mm nn pp rr ss tt zz ck st mp nd lt rb nk".split()
CODAS = "b ck d f g ft l ll lt m mp n nd ng nk nt p r rb rd rk rm rn rt sh sk ss st t th x z".split()
ENDINGS = "er le ine ette on ing ow ia el ar um ant ock ish y ie".split()
KNOWN_WORDS = frozenset(
    word.lower()
    for group in (NAMES, THINGS, DANGERS, ROOMS, DAYS, COLOURS, NUMBERS, _ENTITIES,
                  [w for f in facts() for w in f.sentence.split()])
    for word in group
)  # fmt: skip


def invented_word(rng: random.Random) -> str:
    """A pronounceable word of one to three syllables that is none of the language's own words."""
    while True:
        word = "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(rng.choice((1, 1, 2, 2, 3))))
        if rng.random() < 0.4:
            word += rng.choice(MIDDLES) + rng.choice(ENDINGS)
        elif len(word) < 5 or rng.random() < 0.6:
            word += rng.choice(CODAS)
        if word not in KNOWN_WORDS and len(word) > 2:
            return word
