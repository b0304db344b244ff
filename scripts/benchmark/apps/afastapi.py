"""JSON by FastAPI: by a coroutine, and by a function in its pool of threads."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello():
    return {"message": "Hello, world!"}


@app.get("/def")
def hello_in_a_thread():
    return {"message": "Hello, world!"}
