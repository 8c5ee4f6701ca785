/*
 * The least possible supervisor: `loop N command [argument...]` keeps N copies of a command running.
 *
 * One blocking waitpid for any child; whatever ended is spawned again at once. No policy, no groups, no readiness, no
 * log: what it takes to do this is the floor that a real supervisor is measured against. SIGTERM kills the children.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

extern char **environ;

static volatile pid_t *pids;
static volatile sig_atomic_t stopping;
static int count;

/* Async-signal-safe. What main is spawning right now it kills itself: it looks at `stopping` afterwards. */
static void stop(int signal)
{
    (void)signal;
    stopping = 1;
    for (int slot = 0; slot < count; slot++)
        if (pids[slot] > 0)
            kill(pids[slot], SIGKILL);
}

static void spawn(int slot, char **command)
{
    pid_t pid;
    int error = posix_spawn(&pid, command[0], NULL, NULL, command, environ);
    if (error != 0) {
        fprintf(stderr, "loop: cannot start %s: %s\n", command[0], strerror(error));
        stop(SIGTERM);
        return;
    }
    pids[slot] = pid;
    if (stopping)
        kill(pid, SIGKILL);
}

int main(int argc, char **argv)
{
    count = argc > 2 ? atoi(argv[1]) : 0;
    if (count < 1) {
        fprintf(stderr, "usage: loop N command [argument...]\n");
        return 2;
    }
    pids = calloc(count, sizeof *pids);
    if (pids == NULL)
        return 1;

    /* When the benchmark dies without a word we are told to end as well, and take the children with us. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    struct sigaction action = { .sa_handler = stop };
    sigaction(SIGTERM, &action, NULL);

    for (int slot = 0; slot < count && !stopping; slot++)
        spawn(slot, argv + 2);

    for (;;) {
        pid_t pid = waitpid(-1, NULL, 0);
        if (pid < 0) {
            if (errno == EINTR)
                continue;
            return stopping ? 0 : 1; /* ECHILD: none is left. */
        }
        int slot = 0;
        while (slot < count && pids[slot] != pid)
            slot++;
        if (slot == count)
            continue;
        pids[slot] = 0;
        if (!stopping)
            spawn(slot, argv + 2);
    }
}
