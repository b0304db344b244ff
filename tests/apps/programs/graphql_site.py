"""strawberry: queries by POST, subscriptions over graphql-transport-ws."""

import asyncio
from collections.abc import AsyncGenerator

import strawberry
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from strawberry.asgi import GraphQL

closed = []


@strawberry.type
class Query:
    @strawberry.field
    async def hello(self, name: str) -> str:
        await asyncio.sleep(0)
        return f"hello {name}"

    @strawberry.field
    def fails(self) -> str:
        raise RuntimeError("failed on purpose")


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, target: int) -> AsyncGenerator[int, None]:
        try:
            for number in range(target):
                yield number
                await asyncio.sleep(0.001)
        finally:
            closed.append(target)


async def what(request):
    return PlainTextResponse(f"{closed}")


schema = strawberry.Schema(query=Query, subscription=Subscription)
app = Starlette(routes=[Mount("/graphql", GraphQL(schema)), Route("/closed", what)])
