"""The company's systems over HTTP: JSON for programs, and at the same addresses pages for a browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from demo.business.service import Business
from demo.business.service import Request as Received
from demo.business.store import RefusedError, Store
from demo.business.witness import Outcome

HERE = Path(__file__).parent
WITNESS_PAGE_ROWS = 500

Item = dict[str, Any]


def create_app(log_file: Path, more_tickets: int = 0, more_products: int = 0) -> FastAPI:
    """Return the application; its data is what the log at this path says.

    :param more_tickets: how many tickets there are beside those of the seeds.
    :param more_products: the same for products.
    """
    app = FastAPI(title="Harbour & Pine", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    _add_views(app, Views(Business(log_file, more_tickets, more_products)))
    return app


class Views:
    """Answers requests from the company's data."""

    def __init__(self, business: Business) -> None:
        self._business = business
        self._templates = Jinja2Templates(HERE / "templates")
        self._templates.env.filters["moment"] = lambda text: str(text)[:19].replace("T", " ")

    @property
    def _store(self) -> Store:
        return self._business.store

    async def home(self, request: Request) -> Response:
        """Show where everything is."""
        applied = [entry for entry in self._business.log.entries if entry.outcome is Outcome.APPLIED]
        return self._page(request, "home.html", store=self._store, applied=applied)

    async def witness(self, request: Request, outcome: str | None = None) -> Response:
        """Give the log of all requests, or of those with one outcome; reading it is not in it."""
        entries = [entry for entry in self._business.log.entries if outcome in (None, entry.outcome)]
        if _wants_page(request):
            newest = entries[-WITNESS_PAGE_ROWS:][::-1]
            return self._page(request, "witness.html", entries=newest, outcome=outcome, outcomes=list(Outcome))
        return JSONResponse({"requests": [vars(entry) for entry in entries]})

    async def tickets(self, request: Request, status: str | None = None) -> Response:
        """List the tickets, or those of one status."""
        tickets = [ticket for ticket in self._store.tickets.values() if status in (None, ticket["status"])]
        return await self._list(request, "tickets", tickets, status=status)

    async def ticket(self, request: Request, ticket_id: str) -> Response:
        """Give one ticket."""
        return await self._item(request, "ticket", self._store.tickets.get(ticket_id))

    async def posts(self, request: Request) -> Response:
        """List the CMS's pages."""
        drafts = [item for slug, item in self._store.products.items() if slug not in self._store.posts]
        return await self._list(request, "posts", list(self._store.posts.values()), without_post=drafts)

    async def post(self, request: Request, slug: str) -> Response:
        """Give one page of the CMS."""
        return await self._item(request, "post", self._store.posts.get(slug))

    async def products(self, request: Request) -> Response:
        """List the products and what is known of them."""
        return await self._list(request, "products", list(self._store.products.values()))

    async def product(self, request: Request, slug: str) -> Response:
        """Give what is known of one product."""
        return await self._item(request, "product", self._store.products.get(slug))

    async def messages(self, request: Request) -> Response:
        """List the channel's messages."""
        return await self._list(request, "messages", list(self._store.messages.values()))

    async def message(self, request: Request, message_id: str) -> Response:
        """Give one message of the channel."""
        return await self._item(request, "message", self._store.messages.get(message_id))

    async def unknown(self, request: Request) -> Response:
        """Answer a read of something that does not exist."""
        return await self._item(request, "", None)

    async def write(self, request: Request) -> Response:
        """Apply what changes something, at most once an idempotency key."""
        received = Received(
            request.method, request.url.path, request.headers.get("Idempotency-Key"), await request.body()
        )
        try:
            answer, outcome = await run_in_threadpool(self._business.write, received)
        except RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)
        replayed = {"Idempotency-Replayed": "true"} if outcome is Outcome.REPLAYED else {}
        return JSONResponse(answer.content, answer.status, headers={"Location": answer.location, **replayed})

    async def _list(self, request: Request, name: str, items: list[Item], **page: Any) -> Response:
        if _wants_page(request):
            return self._page(request, f"{name}.html", items=items, **page)
        await self._record_read(request, 200)
        return JSONResponse({name: items})

    async def _item(self, request: Request, name: str, item: Item | None) -> Response:
        if _wants_page(request):
            template = f"{name}.html" if item else "missing.html"
            return self._page(request, template, 200 if item else 404, item=item)
        await self._record_read(request, 200 if item else 404)
        return JSONResponse(item or {"error": f"There is no {request.url.path}."}, 200 if item else 404)

    async def _record_read(self, request: Request, status: int) -> None:
        query = f"?{request.url.query}" if request.url.query else ""
        read = Received(request.method, request.url.path + query, request.headers.get("Idempotency-Key"))
        await run_in_threadpool(self._business.read, read, status)

    def _page(self, request: Request, template: str, status_code: int = 200, **context: Any) -> Response:
        return self._templates.TemplateResponse(request, template, context, status_code=status_code)


def _add_views(app: FastAPI, views: Views) -> None:
    reads: dict[str, Callable[..., Any]] = {
        "/": views.home,
        "/witness": views.witness,
        "/helpdesk/tickets": views.tickets,
        "/helpdesk/tickets/{ticket_id}": views.ticket,
        "/cms/posts": views.posts,
        "/cms/posts/{slug}": views.post,
        "/cms/products": views.products,
        "/cms/products/{slug}": views.product,
        "/channel/messages": views.messages,
        "/channel/messages/{message_id}": views.message,
        "/{path:path}": views.unknown,
    }
    for path, view in reads.items():
        app.add_api_route(path, view, methods=["GET"], response_model=None)
    app.add_api_route("/{path:path}", views.write, methods=["POST", "PUT", "PATCH", "DELETE"], response_model=None)


def _wants_page(request: Request) -> bool:
    """Whether a browser asks; what a browser reads is not recorded, what programs read is."""
    return "text/html" in request.headers.get("Accept", "")
