"""The company's data in memory, and the writes that change it: a pure function of the seeds and the writes."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from demo.business import seed


class RefusedError(Exception):
    """A write that is not valid."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Write:
    """A request that wants to change something."""

    method: str
    path: str
    body: bytes
    time: str


@dataclass(frozen=True)
class Answer:
    """What a write is answered with; `content` holds the external record id as `id`."""

    status: int
    content: dict[str, Any]
    location: str

    @property
    def record_id(self) -> str:
        """The external record id."""
        return str(self.content["id"])


class Fields(BaseModel):
    """A body: what it must hold; whatever else it holds is kept, too."""

    model_config = ConfigDict(extra="allow")


class Label(Fields):
    """What a ticket is labelled with."""

    category: str = Field(min_length=1)
    priority: Literal["low", "normal", "high", "urgent"]
    suggested_reply: str = ""


class Post(Fields):
    """A page of the CMS."""

    title: str = Field(min_length=1)
    body: str = Field(min_length=1)


class Message(Fields):
    """A message to the channel."""

    text: str = Field(min_length=1)


class Store:
    """Tickets, posts and messages by their ids.

    :param more_tickets: how many tickets there are beside those of the seeds.
    :param more_products: the same for products.
    """

    def __init__(self, more_tickets: int = 0, more_products: int = 0) -> None:
        self.tickets = {ticket["id"]: ticket for ticket in seed.tickets(more_tickets)}
        self.products = {product["slug"]: product for product in seed.products(more_products)}
        self.posts: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        self._created = 0

    def apply(self, write: Write) -> Answer:
        """Change the data.

        :raises RefusedError: when there is no such thing, or the body is not valid; nothing has changed then.
        """
        match [write.method, *write.path.strip("/").split("/")]:
            case ["PUT" | "PATCH", "helpdesk", "tickets", ticket_id, "label"]:
                return self._label(ticket_id, write)
            case ["PUT", "cms", "posts", slug]:
                return self._put_post(slug, write)
            case ["DELETE", "cms", "posts", slug]:
                return self._delete(self.posts, slug, f"/cms/posts/{slug}")
            case ["POST", "channel", "messages"]:
                return self._post_message(write)
            case ["DELETE", "channel", "messages", message_id]:
                return self._delete(self.messages, message_id, f"/channel/messages/{message_id}")
            case _:
                raise RefusedError(404, f"There is nothing that {write.method} {write.path} could do.")

    def _label(self, ticket_id: str, write: Write) -> Answer:
        if ticket_id not in self.tickets:
            raise RefusedError(404, f"There is no ticket {ticket_id}.")
        label = _parse(Label, write.body)
        content = {"id": self._next_id("label"), "ticket": ticket_id, **label, "labelled_at": write.time}
        self.tickets[ticket_id] |= {**label, "label_id": content["id"], "labelled_at": write.time}
        return Answer(200, content, f"/helpdesk/tickets/{ticket_id}")

    def _put_post(self, slug: str, write: Write) -> Answer:
        fields = _parse(Post, write.body)
        old = self.posts.get(slug)
        kept = old or {"id": self._next_id("post"), "published_at": write.time, "version": 0}
        post = {
            **fields,
            "id": kept["id"],
            "slug": slug,
            "published_at": kept["published_at"],
            "updated_at": write.time,
            "version": kept["version"] + 1,
        }
        self.posts[slug] = post
        return Answer(200 if old else 201, post, f"/cms/posts/{slug}")

    def _post_message(self, write: Write) -> Answer:
        fields = _parse(Message, write.body)
        message = {**fields, "id": self._next_id("message"), "posted_at": write.time}
        self.messages[message["id"]] = message
        return Answer(201, message, f"/channel/messages/{message['id']}")

    def _delete(self, items: dict[str, dict[str, Any]], key: str, location: str) -> Answer:
        if key not in items:
            raise RefusedError(404, f"There is no {location}.")
        return Answer(200, {"id": items.pop(key)["id"], "deleted": True}, location)

    def _next_id(self, kind: str) -> str:
        self._created += 1
        return f"{kind}-{self._created}"


def _parse(model: type[Fields], body: bytes) -> dict[str, Any]:
    try:
        return model.model_validate_json(body).model_dump()
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
        raise RefusedError(422, problems) from None
