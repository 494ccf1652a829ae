"""An actor and a router in asyncio: nothing here blocks the loop."""

import asyncio

import musterd

router = musterd.Router(exclude_for=5.0)


async def ask(target: musterd.Target) -> str:
    reader, writer = await asyncio.open_connection(target.ip, target.port)
    writer.write(f"lease {target.lease_id}\n".encode())
    answer = await reader.readline()
    writer.close()
    return answer.decode().strip()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"you sent " + await reader.readline())
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, musterd.register("echo", ip="127.0.0.1", port=port, stall_after=5.0):
        # Goes on to another instance if the connection fails.
        print(await router.arun("echo", ask, wait=5))


asyncio.run(main())
