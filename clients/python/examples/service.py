"""A FastAPI service that is registered while it runs, and asks another one. Run it with uvicorn."""

import os
from typing import Annotated

import musterd.fastapi
import musterd.httpx
from fastapi import Depends, FastAPI, Request

import httpx

port = int(os.environ.get("PORT", "8000"))
app = FastAPI(lifespan=musterd.fastapi.lifespan("organ", port=port, grace=5.0, stall_after=5.0))


@app.get("/lease")
async def lease(request: Request) -> int:
    return int(request.state.registration.require())


@app.get("/peer")
async def peer(router: Annotated[musterd.Router, Depends(musterd.fastapi.router)]) -> int:
    async with httpx.AsyncClient(transport=musterd.httpx.AsyncTransport(router)) as client:
        return int((await client.get("http://organ.muster/lease")).text)
