"""Rules on one text: English or not, control tokens, personal data."""

from __future__ import annotations

import ipaddress
import re

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`]*`", re.DOTALL)


def words(text: str) -> list[str]:
    """Lower-cased words: letters with inner apostrophes; digits and punctuation left out."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def normal(text: str) -> str:
    """The text without its letter case and its spacing, to compare texts by."""
    return " ".join(text.casefold().split())


# Function words: the commonest of English, and those of its neighbours in script that are not English words as well.
_ENGLISH = frozenset(
    """a about after all an and any are as at be because been before both but by can do does each every for from
    get give had has have he her his how i if in is it its just keep know let make more most my need no not nobody
    nothing of off on one only or other our out over own put say says she should so some still take than that the
    their them then there these they this those to two until up was we were what when where which while who why
    will with without would you your don't it's isn't that's you're i'd i'm i've i'll won't can't""".split()
)
_FOREIGN = (
    frozenset(
        """der das und nicht ist ein eine den dem mit auf für sich zu es sie wir ich auch aber weil het een niet dat en van
    voor zijn ze wij ik maar omdat le la les et est une des du que qui pas ne dans pour nous vous je parce mais el los
    las y por para con una un es su como pero porque il che di una sono ma perché o os um uma não em mas nie
    jest na że i bir ve bu için yang dan untuk tidak och att det som är inte og ikke""".split()
    )
    - _ENGLISH
)


def looks_english(text: str) -> bool:
    """True if the prose of `text` (code left out) reads as English.

    Three rules: at most a tenth of the letters are not Latin; function words of other languages are no more than
    English ones; and of the words beyond the first twelve, at least a tenth are English function words. In ordinary English
    prose about two in five are; the first twelve are free because a terse thought may have none.
    """
    prose = _CODE.sub(" ", text)
    letters = [letter for letter in prose if letter.isalpha()]
    if sum(ord(letter) > 0x24F for letter in letters) > len(letters) / 10:  # beyond Latin Extended-B
        return False
    found = words(prose)
    english = sum(word in _ENGLISH for word in found)
    foreign = sum(word in _FOREIGN for word in found)
    return foreign <= english and english >= (len(found) - 12) // 10


_CONTROL = re.compile(
    r"</?think>|<\|[^|\n]{1,40}\|>|<｜[^｜\n]{1,40}｜>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk)>|"
    r"<(?:start|end)_of_turn>",
    re.IGNORECASE,
)


def control_tokens(text: str) -> list[str]:
    """Chat-template and reasoning tags that have no place inside a stored text."""
    return _CONTROL.findall(text)


_EMAIL = re.compile(r"\b[\w.+-]+@([\w-]+(?:\.[\w-]+)*\.[a-z]{2,})\b", re.IGNORECASE)
_RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|net|org))?|invalid|test|localhost)$", re.IGNORECASE)  # RFC 2606
_PHONE = re.compile(r"(?<![\w.])(?:\+\d[\d ().-]{7,16}\d|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?!\w)")
_CARD = re.compile(r"(?<![\w.])(?:\d{13,19}|\d{4}(?:[ -]\d{4}){3}|\d{4}[ -]\d{6}[ -]\d{5})(?!\w)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_IP = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")


def personal_data(text: str) -> list[str]:
    """E-mail addresses, phone, card and bank account numbers and public IP addresses found in `text`.

    Card numbers count if their Luhn digit is right, bank accounts if their ISO 13616 check is; addresses and domains
    reserved for examples (RFC 2606, RFC 5737) do not count.
    """
    found = [match[0] for match in _EMAIL.finditer(text) if not _RESERVED.search(match[1])]
    found += [match[0] for match in _PHONE.finditer(text)]
    found += [match[0] for match in _CARD.finditer(text) if _luhn(match[0])]
    found += [match[0] for match in _IBAN.finditer(text) if _iban(match[0])]
    found += [match[0] for match in _IP.finditer(text) if _public(match[0])]
    return found


def _luhn(number: str) -> bool:
    digits = [int(digit) for digit in number if digit.isdigit()][::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _iban(number: str) -> bool:
    compact = number.replace(" ", "")
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # 999.1.1.1, or a version number with a leading zero
        return False
