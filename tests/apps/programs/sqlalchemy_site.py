"""SQLAlchemy over asyncio: sessions by task, by greenlet, side by side."""

import asyncio
import contextlib
import os

from sqlalchemy import ForeignKey, event, func, select
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

engine = create_async_engine(f"sqlite+aiosqlite:///site-{os.getpid()}.db")
Session = async_scoped_session(
    async_sessionmaker(engine, expire_on_commit=True), scopefunc=asyncio.current_task
)
checked_out = []
event.listen(engine.sync_engine, "checkout", lambda *_: checked_out.append(1))
event.listen(engine.sync_engine, "checkin", lambda *_: checked_out.pop())


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


async def add(request):
    """Commits, in the session of this task; and the next request finds no session of its own."""
    found = Session.registry.has()
    async with Session.begin():
        Session.add(Author(name=request.path_params["name"], books=[Book(), Book()]))
    same = Session() is Session()
    await Session.remove()
    return PlainTextResponse(f"{found} {same}")


async def roll_back(request):
    try:
        async with Session.begin():
            Session.add(Author(name="of no name"))
            await Session.flush()
            raise RuntimeError("failed on purpose")
    finally:
        await Session.remove()


async def count(request):
    async with Session() as session:
        number = await session.scalar(select(func.count()).select_from(Author))
    await Session.remove()
    return PlainTextResponse(f"{number} {len(checked_out)}")


async def lazy(request):
    """What loads when it is touched, in the greenlet of run_sync; outside of one it is refused."""
    async with Session() as session:
        author = await session.scalar(select(Author).limit(1))
        books = await session.run_sync(lambda _: len(author.books))
        await session.refresh(author, ["name"])
        session.expire(author)
        try:
            _ = author.books
        except Exception as error:
            refused = type(error).__name__
    await Session.remove()
    return PlainTextResponse(f"{books} {refused}")


async def side_by_side(request):
    """Each task has its session, and none is left in the registry."""

    async def one(number):
        async with Session() as session:
            await session.execute(select(Author))
            await asyncio.sleep(0)
            seen = id(session)
        await Session.remove()
        return seen

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(5)]
    return PlainTextResponse(f"{len(tasks)} {len(Session.registry.registry)}")


async def rows(request):
    async def pieces():
        async with engine.connect() as connection:
            async for row in await connection.stream(select(Author.name).order_by(Author.id)):
                yield f"{row.name},"

    return StreamingResponse(pieces())


async def given_up(request):
    """A statement that is cancelled gives its connection back."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01), Session() as session:
            await session.execute(select(Author))
            await asyncio.sleep(10)
    await Session.remove()
    return PlainTextResponse(f"{len(checked_out)}")


@contextlib.asynccontextmanager
async def lifespan(app):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = Starlette(
    routes=[
        Route("/add/{name}", add), Route("/roll-back", roll_back), Route("/count", count),
        Route("/lazy", lazy), Route("/side-by-side", side_by_side), Route("/rows", rows),
        Route("/given-up", given_up),
    ],
    lifespan=lifespan,
)  # fmt: skip
