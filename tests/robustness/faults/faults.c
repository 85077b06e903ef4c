/* Preloaded into a process: has chosen system calls fail, or take less than they were given, as `rules` say.
 * What the tests ask for by `faults_add` is consulted in that order. See conftest.py, which builds it and drives it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIECES 1024

enum kind { RECEIVE, SEND, ACCEPT, CONNECT, MAKE, WATCH };

struct rule {
    enum kind kind;
    int fd;       /* -1: any */
    int error;    /* an errno, or 0: no more than `most` bytes are passed on */
    size_t most;
    int after;    /* how many calls go well before */
    int times;
};

static struct rule rules[16];
static int count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int faults_add(enum kind kind, int fd, int error, size_t most, int after, int times)
{
    pthread_mutex_lock(&lock);
    int full = count == sizeof rules / sizeof *rules;
    if (!full)
        rules[count++] = (struct rule){kind, fd, error, most, after, times};
    pthread_mutex_unlock(&lock);
    return full ? -1 : 0;
}

/* Forgets all; says how many failures nobody has met. */
int faults_clear(void)
{
    pthread_mutex_lock(&lock);
    int left = 0;
    for (int i = 0; i < count; i++)
        if (rules[i].error)
            left += rules[i].times;
    count = 0;
    pthread_mutex_unlock(&lock);
    return left;
}

/* Whether a call for `calls` things fails, with errno set. Else `calls` and `size` say how much of it may go well. */
static int fails_for(enum kind kind, int fd, int *calls, size_t *size)
{
    int error = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < count; i++) {
        struct rule *rule = &rules[i];
        if (rule->kind != kind || rule->times == 0 || (rule->fd != -1 && rule->fd != fd))
            continue;
        if (rule->after > 0) {
            if (*calls > rule->after)
                *calls = rule->after;
            rule->after -= *calls;
            break;
        }
        rule->times--;
        error = rule->error;
        if (!error && size && *size > rule->most)
            *size = rule->most;
        break;
    }
    pthread_mutex_unlock(&lock);
    if (error)
        errno = error;
    return error != 0;
}

static int fails(enum kind kind, int fd, size_t *size)
{
    int calls = 1;
    return fails_for(kind, fd, &calls, size);
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t read(int fd, void *into, size_t size)
{
    REAL(read);
    return fails(RECEIVE, fd, &size) ? -1 : real(fd, into, size);
}

ssize_t recv(int fd, void *into, size_t size, int flags)
{
    REAL(recv);
    return fails(RECEIVE, fd, &size) ? -1 : real(fd, into, size, flags);
}

ssize_t recvfrom(int fd, void *restrict into, size_t size, int flags, struct sockaddr *restrict from,
                 socklen_t *restrict len)
{
    REAL(recvfrom);
    return fails(RECEIVE, fd, &size) ? -1 : real(fd, into, size, flags, from, len);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int n, int flags, struct timespec *timeout)
{
    REAL(recvmmsg);
    int calls = (int)n;
    return fails_for(RECEIVE, fd, &calls, NULL) ? -1 : real(fd, messages, (unsigned int)calls, flags, timeout);
}

ssize_t write(int fd, const void *from, size_t size)
{
    REAL(write);
    return fails(SEND, fd, &size) ? -1 : real(fd, from, size);
}

ssize_t send(int fd, const void *from, size_t size, int flags)
{
    REAL(send);
    return fails(SEND, fd, &size) ? -1 : real(fd, from, size, flags);
}

ssize_t sendto(int fd, const void *from, size_t size, int flags, const struct sockaddr *to, socklen_t len)
{
    REAL(sendto);
    return fails(SEND, fd, &size) ? -1 : real(fd, from, size, flags, to, len);
}

/* The first `size` bytes of `n` pieces, copied into `into`; returns how many pieces that are. */
static size_t cut(struct iovec *into, const struct iovec *from, size_t n, size_t size)
{
    size_t i;
    for (i = 0; i < n && i < PIECES && size > 0; i++) {
        into[i] = from[i];
        if (into[i].iov_len > size)
            into[i].iov_len = size;
        size -= into[i].iov_len;
    }
    return i;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    size_t size = (size_t)-1;
    if (fails(SEND, fd, &size))
        return -1;
    struct iovec pieces[PIECES];
    struct msghdr less = *message;
    if (size != (size_t)-1) {
        less.msg_iovlen = cut(pieces, message->msg_iov, message->msg_iovlen, size);
        less.msg_iov = pieces;
    }
    return real(fd, &less, flags);
}

ssize_t writev(int fd, const struct iovec *from, int n)
{
    REAL(writev);
    size_t size = (size_t)-1;
    if (fails(SEND, fd, &size))
        return -1;
    struct iovec pieces[PIECES];
    if (size == (size_t)-1)
        return real(fd, from, n);
    return real(fd, pieces, (int)cut(pieces, from, (size_t)n, size));
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int n, int flags)
{
    REAL(sendmmsg);
    int calls = (int)n;
    return fails_for(SEND, fd, &calls, NULL) ? -1 : real(fd, messages, (unsigned int)calls, flags);
}

int accept4(int fd, struct sockaddr *restrict peer, socklen_t *restrict len, int flags)
{
    REAL(accept4);
    return fails(ACCEPT, fd, NULL) ? -1 : real(fd, peer, len, flags);
}

int eventfd(unsigned int start, int flags)
{
    __typeof__(int(unsigned int, int)) *real = (int (*)(unsigned int, int))dlsym(RTLD_NEXT, "eventfd");
    return fails(MAKE, -1, NULL) ? -1 : real(start, flags);
}

/* The calls that Rondel makes without the C library's own functions; all others pass. */
long syscall(long number, ...)
{
    long given[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        given[i] = va_arg(list, long);
    va_end(list);
    switch (number) {
    case SYS_recvfrom:
        return recvfrom((int)given[0], (void *)given[1], (size_t)given[2], (int)given[3], (struct sockaddr *)given[4],
                        (socklen_t *)given[5]);
    case SYS_sendto:
        return sendto((int)given[0], (const void *)given[1], (size_t)given[2], (int)given[3],
                      (const struct sockaddr *)given[4], (socklen_t)given[5]);
    case SYS_eventfd2:
        return eventfd((unsigned int)given[0], (int)given[1]);
    case SYS_sendmsg:
        return sendmsg((int)given[0], (const struct msghdr *)given[1], (int)given[2]);
    default: {
        REAL(syscall);
        return real(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    }
    }
}

/* A connect that a signal interrupts goes on nevertheless. */
int connect(int fd, const struct sockaddr *to, socklen_t len)
{
    REAL(connect);
    if (!fails(CONNECT, fd, NULL))
        return real(fd, to, len);
    int error = errno;
    if (error == EINTR)
        real(fd, to, len);
    errno = error;
    return -1;
}

int socket(int family, int type, int protocol)
{
    REAL(socket);
    return fails(MAKE, -1, NULL) ? -1 : real(family, type, protocol);
}

int socketpair(int family, int type, int protocol, int pair[2])
{
    REAL(socketpair);
    return fails(MAKE, -1, NULL) ? -1 : real(family, type, protocol, pair);
}

int pipe2(int pair[2], int flags)
{
    REAL(pipe2);
    return fails(MAKE, -1, NULL) ? -1 : real(pair, flags);
}

int epoll_create1(int flags)
{
    REAL(epoll_create1);
    return fails(MAKE, -1, NULL) ? -1 : real(flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    REAL(epoll_ctl);
    return operation != EPOLL_CTL_DEL && fails(WATCH, fd, NULL) ? -1 : real(epoll, operation, fd, event);
}
