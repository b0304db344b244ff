/* The floor of the stream work: an echo server on epoll that does nothing else. echo PORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char buffer[65536];
    struct epoll_event events[256], watch = {.events = EPOLLIN};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096))
        return 1;
    watch.data.fd = listener;
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &watch);
    for (;;) {
        int ready = epoll_wait(set, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                watch.data.fd = accept4(listener, 0, 0, SOCK_NONBLOCK);
                epoll_ctl(set, EPOLL_CTL_ADD, watch.data.fd, &watch);
                continue;
            }
            ssize_t size = recv(fd, buffer, sizeof buffer, 0);
            if (size <= 0 || send(fd, buffer, size, MSG_NOSIGNAL) != size)
                close(fd);
        }
    }
}
