"""redis-py's MultiDBClient, told by the bench what to do: one JSON object a line in, one a line out.

One process is one client; it ends when its input does.
"""

import asyncio
import json
import logging
import platform
import sys
import time
import warnings
from importlib.metadata import version

import redis.asyncio
from redis.asyncio.multidb.client import MultiDBClient
from redis.asyncio.multidb.config import DatabaseConfig, MultiDbConfig
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

# What it logs is not measured, and its experimental state is known.
logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")

PAUSE = 0.005


def config(urls, tuning):
    """The library's defaults, or as fast as its options let it be."""
    kwargs, options = {}, {}
    if tuning == "aggressive":
        kwargs = {"socket_timeout": 0.25, "socket_connect_timeout": 0.25}
        options = {
            "health_check_interval": 0.1,
            "health_check_probes": 1,
            "health_check_delay": 0,
            "health_check_timeout": 0.25,
            "min_num_failures": 1,
            "failure_rate_threshold": 0,
            "failures_detection_window": 1,
            "command_retry": Retry(
                ExponentialWithJitterBackoff(base=0.005, cap=0.05), retries=20
            ),
        }
    databases = [
        DatabaseConfig(from_url=url, weight=weight, client_kwargs=dict(kwargs))
        for url, weight in zip(urls, [1.0, 0.5])
    ]
    return MultiDbConfig(databases_config=databases, **options)


class Count:
    """What became of calls."""

    def __init__(self):
        self.issued = 0
        self.acknowledged = 0
        self.errors = {}

    async def call(self, command):
        self.issued += 1
        try:
            await command
            self.acknowledged += 1
        except Exception as error:
            name = type(error).__name__
            self.errors[name] = self.errors.get(name, 0) + 1
            # Were every error at once, nobody else would have a turn.
            await asyncio.sleep(0)


class Player:
    """Its methods are the verbs of the bench."""

    async def connect(self, databases, tuning):
        self.urls = databases
        self.client = MultiDBClient(config(databases, tuning))
        await self.client.initialize()
        return {
            "redis-py": version("redis"),
            "pybreaker": version("pybreaker"),
            "python": platform.python_version(),
        }

    async def read(self, key):
        self.reader = asyncio.create_task(self._read(key))

    async def _read(self, key):
        failed, longest = 0, 0.0
        while True:
            began = time.monotonic()
            try:
                name = await self.client.get(key)
            except Exception:
                name, failed = None, failed + 1
            at = time.monotonic_ns()
            longest = max(longest, time.monotonic() - began)
            if name in (b"b", "b"):
                return {"at_ns": at, "failed": failed, "longest_ms": longest * 1e3}
            await asyncio.sleep(PAUSE)

    async def elsewhere(self):
        return await self.reader

    async def subscribe(self, channel):
        self.heard, self.first_elsewhere = [], asyncio.get_running_loop().create_future()
        self.pubsub = await self.client.pubsub()
        await self.pubsub.subscribe(channel)
        self.listener = asyncio.create_task(self._listen())

    async def _listen(self):
        while True:
            try:
                message = await self.pubsub.get_message(
                    ignore_subscribe_messages=True, timeout=0.1
                )
            except Exception:
                # As an application's loop would: it goes on.
                await asyncio.sleep(0.001)
                continue
            if message is None:
                continue
            at = time.monotonic_ns()
            name, number = message["data"].decode().split(":")
            self.heard.append(int(number))
            if name == "b" and not self.first_elsewhere.done():
                self.first_elsewhere.set_result(at)

    async def heard_elsewhere(self):
        return {"at_ns": await self.first_elsewhere}

    async def received(self):
        self.listener.cancel()
        return {"numbers": self.heard}

    async def incr(self, key, callers):
        count = Count()
        await asyncio.gather(*(count.call(self.client.incr(key)) for _ in range(callers)))
        return vars(count)

    async def load(self, key, callers):
        self.count, self.loading = Count(), True
        self.callers = [asyncio.create_task(self._load(key)) for _ in range(callers)]

    async def _load(self, key):
        while self.loading:
            await self.count.call(self.client.incr(key))

    async def switch(self, to):
        database, _weight = list(self.client.get_databases())[to]
        await self.client.set_active_database(database)

    async def unload(self):
        self.loading = False
        await asyncio.gather(*self.callers)
        return vars(self.count)

    async def overhead(self, key, callers, commands, rounds):
        """Commands per second in blocks that take turns: bare, ours, bare again."""
        bare = redis.asyncio.Redis.from_url(self.urls[0])
        clients = {"bare": bare, "wrapped": self.client, "again": bare}
        rates = {name: [] for name in clients}
        for name, client in clients.items():
            await self._rate(client, key, callers, commands)
        for _ in range(rounds):
            for name, client in clients.items():
                rates[name].append(await self._rate(client, key, callers, commands))
        await bare.aclose()
        return rates

    @staticmethod
    async def _rate(client, key, callers, commands):
        each = commands // callers

        async def work():
            for _ in range(each):
                await client.get(key)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(callers)))
        return each * callers / (time.perf_counter() - began)


async def main():
    loop = asyncio.get_running_loop()
    player = Player()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        verb = order.pop("do")
        try:
            answer = await getattr(player, verb)(**order) or {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
