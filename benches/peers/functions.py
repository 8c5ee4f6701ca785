"""One call of a function in another process, by Python's own multiprocessing, for benches/tasks.rs.

    functions.py METHOD     METHOD is fork, forkserver or spawn

Says that it is set up with one byte, then makes one call for each byte that it reads, and answers with the nanoseconds
that it took.
"""

import multiprocessing
import struct
import sys
import time


def task(connection, number):
    connection.send(number + 1)


def call(context):
    ours, theirs = context.Pipe(False)
    began = time.perf_counter_ns()
    process = context.Process(target=task, args=(theirs, 1))
    process.start()
    theirs.close()
    assert ours.recv() == 2
    process.join()
    took = time.perf_counter_ns() - began
    ours.close()
    return took


def main():
    context = multiprocessing.get_context(sys.argv[1])
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    call(context)  # what is started once, is
    answers.write(b"\x01")
    answers.flush()
    while orders.read(1):
        answers.write(struct.pack("=Q", call(context)))
        answers.flush()


if __name__ == "__main__":
    main()
