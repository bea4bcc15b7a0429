// The program of the images that scripts/bench.sh runs: static, so that its start costs what execve(2) costs.
//
//   program stamp             prints the monotonic clock as the first thing it does, and waits for SIGTERM
//   program once              prints the clock and ends
//   program lines TOTAL LEN   after two seconds, in which who measures gets ready, writes TOTAL bytes in lines of LEN bytes, then when
//                             it began and ended, and waits for SIGTERM
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void ends(int signal) {
    (void)signal;
    _exit(0);
}
static void say(const char *format, long long a, long long b) {
    char line[100];
    int length = snprintf(line, sizeof line, format, a, b);
    if (write(1, line, (size_t)length) != length) _exit(3);
}
static int lines(long long total, long long length) {
    enum { BUFFER = 1 << 16 };
    long long begin, left, size = BUFFER / length * length;
    char *text;
    if (size < length) size = length;
    if (length < 2 || !(text = malloc((size_t)size))) return 2;
    for (long long i = 0; i < size; i++) text[i] = i % length == length - 1 ? '\n' : (char)('a' + i % 26);
    sleep(2);
    begin = now();
    for (left = total; left > 0;) {
        ssize_t written = 0, count;
        while (written < size) {
            if ((count = write(1, text + written, (size_t)(size - written))) <= 0) return 3;
            written += count;
        }
        left -= size;
    }
    say("began %lld ended %lld\n", begin, now());
    return 0;
}
int main(int count, char **words) {
    // As pid 1 of a pid namespace it gets no signal that it does not catch; who reads its stamp may stop it at once.
    signal(SIGTERM, ends);
    if (count == 4 && !strcmp(words[1], "lines")) {
        int code = lines(atoll(words[2]), atoll(words[3]));
        if (code) return code;
    } else if (count == 2) {
        say("stamp %lld\n", now(), 0);
        if (!strcmp(words[1], "once")) return 0;
    } else {
        return 2;
    }
    for (;;) pause();
}
