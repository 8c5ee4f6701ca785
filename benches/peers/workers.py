"""A worker that stays, by Python's own pools and those of others, for benches/workers.rs.

    workers.py WORK POOL    WORK is trip, many or large; POOL is pool (multiprocessing), executor (concurrent.futures),
                            loky or ray

Says that it is set up with one byte, then does the work once for each byte that it reads, and answers with the nanoseconds
that it took. A pool that is not installed ends it with code 3.
"""

import os
import struct
import sys
import time

TRIPS = 200
MANY = 1_000 if os.environ.get("SMOKE") else 100_000
LARGE = (1 if os.environ.get("SMOKE") else 100) << 20


def same(value):
    return value


class Pool:
    def __init__(self):
        import multiprocessing
        self.pool = multiprocessing.Pool(1)

    def call(self, value):
        return self.pool.apply(same, (value,))

    def many(self, count):
        tasks = [self.pool.apply_async(same, (number,)) for number in range(count)]
        return [task.get() for task in tasks]


class Executor:
    def __init__(self):
        import concurrent.futures
        self.pool = concurrent.futures.ProcessPoolExecutor(1)

    def call(self, value):
        return self.pool.submit(same, value).result()

    def many(self, count):
        tasks = [self.pool.submit(same, number) for number in range(count)]
        return [task.result() for task in tasks]


class Loky(Executor):
    def __init__(self):
        import loky
        self.pool = loky.get_reusable_executor(1)


class Ray:
    def __init__(self):
        import logging
        import ray
        ray.init(num_cpus=1, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)

        @ray.remote
        class Worker:
            def same(self, value):
                return value

        self.ray, self.worker = ray, Worker.remote()

    def call(self, value):
        return self.ray.get(self.worker.same.remote(value))

    def many(self, count):
        return self.ray.get([self.worker.same.remote(number) for number in range(count)])


POOLS = {"pool": Pool, "executor": Executor, "loky": Loky, "ray": Ray}


def main():
    work, name = sys.argv[1:]
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        pool = POOLS[name]()
    except ImportError:
        sys.exit(3)
    large = bytes(LARGE) if work == "large" else b""

    def trip():
        began = time.perf_counter_ns()
        for number in range(TRIPS):
            assert pool.call(number) == number
        return (time.perf_counter_ns() - began) // TRIPS

    def many():
        began = time.perf_counter_ns()
        assert len(pool.many(MANY)) == MANY
        return time.perf_counter_ns() - began

    def big():
        began = time.perf_counter_ns()
        assert len(pool.call(large)) == LARGE
        return time.perf_counter_ns() - began

    one = {"trip": trip, "many": many, "large": big}[work]
    pool.call(0)  # what is started once, is
    answers.write(b"\x01")
    answers.flush()
    while sys.stdin.buffer.read(1):
        answers.write(struct.pack("=Q", one()))
        answers.flush()


if __name__ == "__main__":
    main()
