"""How each sound event is called: label, clauses, noun phrases, archive notes. Corpora pick different columns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lexeme:
    """Words for one event: AudioSet-like `label`, finite `clauses`, progressive `being`, noun phrase `thing`,
    BBC-like `archive` note and `category`; `letter` is CHiME-Home's source class."""

    label: str
    clauses: tuple[str, ...]
    being: tuple[str, ...]
    thing: str
    archive: str
    category: str
    letter: str = "o"


LEXICON: dict[str, Lexeme] = {
    "dog": Lexeme(
        "Bark", ("a dog barks", "a dog is barking"), ("a dog is barking", "a dog barks out"), "a dog barking",
        "Dogs - single dog barking", "Animals",
    ),
    "cat": Lexeme(
        "Meow", ("a cat meows",), ("a cat is meowing", "a kitten is mewing"), "a cat meowing",
        "Cats - domestic cat, miaow", "Animals",
    ),
    "bird": Lexeme(
        "Chirp, tweet", ("birds chirp", "a bird chirps"), ("birds are chirping", "a small bird is singing"),
        "birds chirping", "Birds - bird song", "Nature",
    ),
    "rooster": Lexeme(
        "Crowing, cock-a-doodle-doo", ("a rooster crows",), ("a rooster is crowing", "a cockerel is calling"),
        "a rooster crowing", "Poultry - cockerel crowing", "Animals",
    ),
    "insects": Lexeme(
        "Cricket", ("insects buzz", "crickets chirp"), ("crickets are chirping", "insects are humming"),
        "crickets chirping", "Insects - crickets, continuous", "Nature",
    ),
    "rain": Lexeme(
        "Rain", ("rain falls", "it is raining"), ("rain is pouring down", "rain is falling steadily"), "rain falling",
        "Rain - steady rain", "Nature", "b",
    ),
    "thunder": Lexeme(
        "Thunder", ("thunder rumbles", "thunder roars"), ("thunder is rumbling", "thunder is rolling"),
        "thunder rumbling", "Thunder - rumbles", "Nature",
    ),
    "wind": Lexeme(
        "Wind", ("wind blows", "the wind is blowing"), ("the wind is howling", "wind is gusting"), "wind blowing",
        "Wind - gusts, with whistle", "Nature", "b",
    ),
    "water": Lexeme(
        "Stream", ("water flows", "water trickles"), ("water is trickling", "a stream is babbling"), "water flowing",
        "Water - small stream", "Nature", "b",
    ),
    "waves": Lexeme(
        "Waves, surf", ("waves crash",), ("waves are washing ashore", "the surf is rolling in"), "waves crashing",
        "Sea - surf on beach", "Nature", "b",
    ),
    "fire": Lexeme(
        "Crackle", ("a fire crackles",), ("a fire is crackling", "wood is burning and popping"), "a fire crackling",
        "Fire - crackling", "Nature",
    ),
    "engine": Lexeme(
        "Engine", ("an engine runs", "an engine idles", "a vehicle engine hums"),
        ("an engine is idling", "a motor is running"), "an engine running", "Cars - engine ticking over",
        "Transport", "b",
    ),
    "siren": Lexeme(
        "Siren", ("a siren wails", "an emergency siren sounds"), ("a siren is wailing", "a siren is going by"),
        "a siren wailing", "Sirens - emergency vehicle", "Transport",
    ),
    "car_horn": Lexeme(
        "Vehicle horn", ("a car honks", "a horn honks"), ("a car horn is blaring", "someone is honking a horn"),
        "a car horn honking", "Cars - horn sounded", "Transport",
    ),
    "footsteps": Lexeme(
        "Walk, footsteps", ("someone walks", "footsteps are heard"),
        ("someone is walking", "a person is walking on a hard floor"), "footsteps", "Footsteps - one person walking",
        "Footsteps", "p",
    ),
    "knock": Lexeme(
        "Knock", ("someone knocks", "a person knocks on a door"), ("someone is knocking on wood",), "knocking",
        "Doors - knocking on door", "Doors", "p",
    ),
    "door": Lexeme(
        "Door", ("a door slams", "a door shuts"), ("a door is being shut", "a door is closing hard"),
        "a door slamming", "Doors - door slammed", "Doors", "p",
    ),
    "bell": Lexeme(
        "Bell", ("a bell rings", "a bell chimes"), ("a bell is ringing", "a bell is tolling"), "a bell ringing",
        "Bells - bell struck", "Bells", "p",
    ),
    "alarm": Lexeme(
        "Beep, bleep", ("an alarm beeps", "a device beeps"), ("an alarm is beeping",), "an alarm beeping",
        "Electronics - alarm bleeps", "Machines",
    ),
    "clock": Lexeme(
        "Tick-tock", ("a clock ticks",), ("a clock is ticking", "a watch is ticking away"), "a clock ticking",
        "Clocks - clock ticking", "Clocks", "p",
    ),
    "keyboard": Lexeme(
        "Typing", ("someone types", "a person types on a keyboard"), ("someone is typing on a keyboard",),
        "typing on a keyboard", "Office - computer keyboard", "Machines", "p",
    ),
    "applause": Lexeme(
        "Applause", ("people applaud", "a crowd claps"), ("an audience is clapping",), "people applauding",
        "Crowds - applause", "Crowds", "b",
    ),
    "vacuum": Lexeme(
        "Vacuum cleaner", ("a vacuum cleaner runs",), ("a vacuum cleaner is running", "a machine is whirring"),
        "a vacuum cleaner running", "Household - vacuum cleaner", "Machines", "b",
    ),
    "train": Lexeme(
        "Train", ("a train passes", "a train clacks along"), ("a train is passing by", "a train is rolling on tracks"),
        "a train passing", "Trains - passing over rail joints", "Transport",
    ),
    "hammer": Lexeme(
        "Hammer", ("someone hammers", "a metal object is struck"), ("someone is hammering metal",),
        "hammering on metal", "Workshop - hammer on metal", "Machines", "p",
    ),
    "glass": Lexeme(
        "Glass", ("glass breaks", "glass shatters"), ("glass is breaking", "a dish is breaking"), "glass breaking",
        "Glass - smash", "Household", "p",
    ),
    "baby": Lexeme(
        "Baby cry, infant cry", ("a baby cries",), ("a baby is crying", "an infant is wailing"), "a baby crying",
        "Babies - baby crying", "People", "c",
    ),
    "man": Lexeme(
        "Male speech, man speaking", ("a man speaks", "a man talks"), ("a man is talking", "a male voice is speaking"),
        "a man speaking", "People - man talking", "People", "m",
    ),
    "woman": Lexeme(
        "Female speech, woman speaking", ("a woman speaks", "a woman talks"),
        ("a woman is talking", "a female voice is speaking"), "a woman speaking", "People - woman talking", "People",
        "f",
    ),
    "child": Lexeme(
        "Child speech, kid speaking", ("a child speaks", "a kid talks"), ("a child is talking",), "a child speaking",
        "Children - child talking", "People", "c",
    ),
    "crowd": Lexeme(
        "Hubbub, speech noise, speech babble", ("people talk", "a crowd murmurs"),
        ("people are chatting", "a crowd is murmuring"), "people talking", "Crowds - interior chatter", "Crowds", "f",
    ),
    "music": Lexeme(
        "Music", ("music plays",), ("music is playing", "some music is playing"), "music playing",
        "Music - instrumental", "Music", "v",
    ),
}  # fmt: skip

# What a listener would call the places of MACS, by bed.
PLACE_WORDS: dict[str, str] = {"airport": "an airport hall", "public_square": "an open square", "Park": "a park"}
