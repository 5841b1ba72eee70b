"""Makes characters visible that are invisible or change how others read: for pages, terminals, logs, messages. Pure.

What a person reads is what is written: a text by a model, or from its input, must not read differently from what it is.
The marks are plain text, so that they are safe wherever the text stands.
"""

from __future__ import annotations

import json
import re
import unicodedata

#: Default_Ignorable_Code_Point of the Unicode Standard: https://www.unicode.org/Public/17.0.0/ucd/DerivedCoreProperties.txt
DEFAULT_IGNORABLE = (
    (0x00AD, 0x00AD),  # soft hyphen
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x061C, 0x061C),  # Arabic letter mark
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180B, 0x180F),  # Mongolian variation selectors, and the vowel separator
    (0x200B, 0x200F),  # zero-width space, joiners, marks of direction
    (0x202A, 0x202E),  # embeddings and overrides of direction
    (0x2060, 0x206F),  # word joiner, invisible operators, isolates of direction, deprecated format characters
    (0x3164, 0x3164),  # Hangul filler
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),  # halfwidth Hangul filler
    (0xFFF0, 0xFFF8),  # reserved
    (0x1BCA0, 0x1BCA3),  # shorthand format characters
    (0x1D173, 0x1D17A),  # musical format characters
    (0xE0000, 0xE0FFF),  # tags, more variation selectors, reserved
)

#: What is invisible as well, or moves the cursor, or is not a character: controls except tab and line ends, separators
#: of lines and paragraphs, the empty Braille pattern, surrogates, interlinear annotations, and two more blank signs.
_ALSO = (
    (0x0000, 0x0008),
    (0x000B, 0x000C),
    (0x000E, 0x001F),
    (0x007F, 0x009F),
    (0x2028, 0x2029),
    (0x2800, 0x2800),
    (0xD800, 0xDFFF),
    (0xFFF9, 0xFFFB),
    (0x13430, 0x1343F),  # Egyptian format controls
    (0x1D159, 0x1D159),  # musical null notehead
)

_HIDDEN = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in (*DEFAULT_IGNORABLE, *_ALSO))

#: The flags of England, Scotland and Wales are the three emoji that are made of tags (RGI_Emoji_Tag_Sequence, UTS #51).
_FLAGS = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in name) + "\U000e007f"
    for name in ("gbeng", "gbsct", "gbwls")
)

_MARKED = re.compile(f"{_FLAGS}|[{_HIDDEN}]")

_EMOJI = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)

#: Letters and marks whose shape joiners change: Arabic and its relatives, the scripts of India and Southeast Asia.
_JOINED = re.compile(
    "[\u0620-\u065f\u066e-\u06d3\u06d5\u06fa-\u077f\u07ca-\u07f5\u0840-\u085b\u0860-\u086a\u08a0-\u08c9\u0900-\u0dff"
    "\u0f40-\u0fbc\u1000-\u109f\u1780-\u17b3\u17b6-\u17d3\u1820-\u18aa\u1a20-\u1a7c\u1b00-\u1b4b\ua840-\ua873"
    "\ua880-\ua8c5\ua8e0-\ua8ff\ua980-\ua9c0\uaa60-\uaa7f\uaae0-\uaaf6\U00010ac0-\U00010ae4\U00011000-\U00011c3f]"
)

_JOINERS, _STYLES = "\u200c\u200d", "\ufe0e\ufe0f"


def reveal(text: str) -> str:
    """The text for a page: each invisible character is its code point, as in ``[U+202E]``.

    What emoji, Persian, or the scripts of India need to be read stays: joiners, the style of an emoji.
    """
    return _MARKED.sub(lambda found: found[0] if _is_used(found) else f"[U+{ord(found[0]):04X}]", text)


def escape(text: str) -> str:
    r"""The text for one line of a terminal, a log or a message: what is not shown, and line ends, are escapes.

    A terminal obeys escape sequences, and a line feed would begin a line that looks like one of ours.
    """
    return escape_lines(text).replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def escape_lines(text: str, *, json_text: bool = False) -> str:
    """The text with what is not shown as escapes, which mean the same characters again in quotes of YAML.

    :param json_text: the text is JSON, which writes them in its own way.
    """
    write = _in_json if json_text else _in_yaml
    return _MARKED.sub(lambda found: found[0] if _is_used(found) else write(found[0]), text)


def has_hidden(text: str) -> bool:
    """Whether the text holds a character that is not shown."""
    return any(not _is_used(found) for found in _MARKED.finditer(text))


def _in_yaml(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _in_json(character: str) -> str:
    return json.dumps(character)[1:-1]


def _is_used(found: re.Match[str]) -> bool:
    """Whether the character is needed to read the text that it stands in."""
    character, text, place = found[0], found.string, found.start()
    if len(character) > 1:
        return True
    before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
    if character in _STYLES:
        return bool(_EMOJI.match(before)) or (before in "0123456789#*" and before != "" and after == "\u20e3")
    if character not in _JOINERS:
        return False
    if _JOINED.match(before):
        return bool(_JOINED.match(after)) or unicodedata.combining(before) == 9 or character == "\u200d"
    if before in _STYLES and place > 1:
        before = text[place - 2]
    return character == "\u200d" and bool(_EMOJI.match(before) and _EMOJI.match(after))
