"""Which names and which parts of a URL stand for secrets, wherever they are met. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

#: What a name ends with whose value is a secret, word by word: ``X-Api-Key``, ``clientSecret``, ``db_password``. A name
#: that only has such a word, as ``authorization_code_type`` and ``token_count`` do, says something about a secret.
_SECRET_NAMES = frozenset(
    """
    access key|access token|access tokens|api key|api keys|apikey|auth|auth token|authorization|bearer|client secret|
    connection string|cookie|cookies|credential|credentials|csrf|dsn|encryption key|jwt|keyfile dict|license key|
    master key|passphrase|passwd|password|passwords|private key|proxies|proxy|pwd|refresh tokens|sas|secret|
    secret key|secrets|service account|service key|session|session id|session key|sessionid|set cookie|shared key|sid|
    sig|signature|signing key|subscription key|token|webhook url|xsrf
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)

#: Words that may come after such an ending without changing what the value is.
_FORMS = frozenset({"b64", "base64", "header", "hash", "text", "value"})

#: Where a word begins in a name such as `privateKey`, and what is between words.
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BETWEEN = re.compile(r"[^a-z0-9]+")

#: Paths of incoming webhooks: the last parts are all that it takes to post. They are group 2.
_SECRET_PATHS = (
    r"(/services/T[A-Z0-9]+/B[A-Z0-9]+/)([^/?#\s'\"]+)",  # Slack
    r"(/(?:workflows|triggers)/T?[A-Z0-9]+/(?:A[A-Z0-9]+/)?\d+/)([^?#\s'\"]+)",  # Slack
    r"(/api(?:/v\d+)?/webhooks/\d+/)([^/?#\s'\"]+)",  # Discord
    r"(/webhookb2/)([^?#\s'\"]+)",  # Microsoft Teams
    r"(/bot\d+:)([^/?#\s'\"]+)",  # Telegram
    r"(/v1/webhooks/incoming/)([^/?#\s'\"]+)",  # Webex
    r"(/hooks/catch/\d+/)([^/?#\s'\"]+)",  # Zapier
    r"(/hooks/)([A-Za-z0-9]{20,}(?:/[A-Za-z0-9]{20,})?)",  # Mattermost, Rocket.Chat
    r"(/with/key/)([^/?#\s'\"]+)",  # IFTTT
)
_SECRET_PATH = tuple(re.compile(path) for path in _SECRET_PATHS)

#: A login in a URL, or in the host of a connection: before ``@``, with a password after a colon.
_LOGIN = re.compile(r"(?<=//)[^\s/@'\"<>]+(?=@)|(?<![^\s'\"])[^\s/@'\"<>:]+:[^\s/@'\"<>]+(?=@)")

#: The name and the value of one parameter in the query of a URL.
_PARAMETER = re.compile(r"(?<=[?&;])([^=&;#\s]+)=([^&;#\s'\"]*)")


@cache
def is_secret_name(name: str) -> bool:
    """Whether a field with this name holds a secret."""
    words = words_of(name)
    while len(words) > 1 and (words[-1] in _FORMS or words[-1].isdigit()):
        words = words[:-1]
    return any(" ".join(words[-count:]) in _SECRET_NAMES for count in (1, 2))


def has_words_of(name: str, others: Iterable[str]) -> bool:
    """Whether a name has all words of another one, next to each other."""
    wanted = [words for words in map(words_of, others) if words]
    if not wanted:
        return False
    text = f" {' '.join(words_of(name))} "
    return any(f" {' '.join(words)} " in text for words in wanted)


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case."""
    return [word for word in _BETWEEN.split(_CAMEL_CASE.sub("_", name).lower()) if word]


def hidden_in_url(text: str, is_secret: Callable[[str], bool], hide: Callable[[str], str]) -> str:
    """A text without the secrets of the URLs in it: logins, paths of webhooks, and parameters with secret names."""
    text = _LOGIN.sub(lambda match: hide(match[0]), text)
    for path in _SECRET_PATH:
        text = path.sub(lambda match: match[1] + hide(match[2]), text)
    return _PARAMETER.sub(lambda match: f"{match[1]}={hide(match[2])}" if is_secret(match[1]) else match[0], text)


def without_login(host: str) -> str:
    """The host, or the URL, of a connection without a login in it."""
    return _LOGIN.sub("", host).replace("//@", "//").removeprefix("@")
