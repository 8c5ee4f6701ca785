/*
 * A child that reports its first instruction: `beacon socket`.
 *
 * First thing in main it reads CLOCK_MONOTONIC, then it sends the time (u64, nanoseconds) and its pid (u32), both in
 * the machine's byte order, as one datagram of 12 bytes to the unix socket named by its argument. Then it lives on,
 * doing nothing, until it is killed.
 */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);

    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[1]);

    uint64_t time = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    uint32_t pid = (uint32_t)getpid();
    unsigned char message[12];
    memcpy(message, &time, sizeof time);
    memcpy(message + sizeof time, &pid, sizeof pid);

    int out = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (out < 0)
        return 1;
    ssize_t sent = sendto(out, message, sizeof message, 0, (struct sockaddr *)&address, sizeof address);
    if (sent != (ssize_t)sizeof message)
        return 1;
    close(out);
    for (;;)
        pause();
}
