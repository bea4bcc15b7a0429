// Which functions of a program are executed, and in what order for the first time: by it, what it starts, and what that starts.
//
//   functions PROGRAM SYMBOLS OUT COMMAND [ARGUMENT...]
//
// SYMBOLS has a line `ADDRESS NAME` for each function (hexadecimal, of an executable that is not position independent); OUT gets
// the names of those that were executed, a line each. Each function begins with a breakpoint in every process that executes
// PROGRAM, until it is met there.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct function { unsigned long at; char *name; int met; };
static struct function *functions;
static size_t count;
static unsigned char *image, *patched;
static unsigned long text_at, text_offset, text_size;
static struct stat program;

static void fail(const char *what) {
    fprintf(stderr, "functions: %s: %s\n", what, strerror(errno));
    exit(1);
}
static long checked(long result, const char *what) {
    if (result < 0) fail(what);
    return result;
}
static int by_address(const void *a, const void *b) {
    const struct function *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static void read_program(const char *path) {
    int file = (int)checked(open(path, O_RDONLY | O_CLOEXEC), path);
    checked(fstat(file, &program), path);
    image = mmap(NULL, (size_t)program.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (image == MAP_FAILED) fail(path);
    const Elf64_Ehdr *head = (const void *)image;
    const Elf64_Phdr *segments = (const void *)(image + head->e_phoff);
    for (int i = 0; i < head->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && segments[i].p_flags & PF_X)
            text_at = segments[i].p_vaddr, text_offset = segments[i].p_offset, text_size = segments[i].p_filesz;
    if (!(patched = malloc(text_size))) fail("malloc");
    memcpy(patched, image + text_offset, text_size);
    close(file);
}
static void read_symbols(const char *path) {
    FILE *file = fopen(path, "re");
    char name[1 << 16];
    unsigned long at;
    if (!file) fail(path);
    for (size_t room = 0; fscanf(file, "%lx %65535s", &at, name) == 2;) {
        if (at < text_at || at >= text_at + text_size) continue;
        if (count == room && !(functions = realloc(functions, (room = room ? 2 * room : 1024) * sizeof *functions))) fail("realloc");
        functions[count++] = (struct function){at, strdup(name), 0};
        patched[at - text_at] = 0xcc; // int3
    }
    fclose(file);
    qsort(functions, count, sizeof *functions, by_address);
}

static int memory_of(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    return (int)checked(open(path, O_RDWR | O_CLOEXEC), path);
}
// A process has executed something: whether it is the program.
static int is_program(pid_t pid) {
    char path[64];
    struct stat executed;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    // A supervisor executes a copy.
    return !stat(path, &executed) && executed.st_size == program.st_size;
}
static void set_breakpoints(pid_t pid) {
    int memory = memory_of(pid);
    if (pwrite(memory, patched, text_size, (off_t)text_at) != (ssize_t)text_size) fail("writing breakpoints");
    close(memory);
}
// Whether it was one of ours that was met.
static int met(pid_t pid, FILE *out) {
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, pid, NULL, &registers) < 0) return 0;
    struct function wanted = {registers.rip - 1, NULL, 0};
    struct function *found = bsearch(&wanted, functions, count, sizeof wanted, by_address);
    if (!found) return 0;
    int memory = memory_of(pid);
    if (pwrite(memory, image + text_offset + (found->at - text_at), 1, (off_t)found->at) != 1) fail("removing a breakpoint");
    close(memory);
    registers.rip = found->at;
    checked(ptrace(PTRACE_SETREGS, pid, NULL, &registers), "PTRACE_SETREGS");
    // Several names of one function follow each other.
    while (found > functions && found[-1].at == found->at) found--;
    for (; found < functions + count && found->at == wanted.at; found++)
        if (!found->met++) fprintf(out, "%s\n", found->name);
    return 1;
}

int main(int argument_count, char **arguments) {
    if (argument_count < 5) return 2;
    read_program(arguments[1]);
    read_symbols(arguments[2]);
    FILE *out = fopen(arguments[3], "we");
    if (!out) fail(arguments[3]);
    pid_t first = (pid_t)checked(fork(), "fork");
    if (!first) {
        checked(ptrace(PTRACE_TRACEME, 0, NULL, NULL), "PTRACE_TRACEME");
        raise(SIGSTOP);
        execvp(arguments[4], arguments + 4);
        fail(arguments[4]);
    }
    int status, code = 1;
    checked(waitpid(first, &status, 0), "waitpid");
    long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    checked(ptrace(PTRACE_SETOPTIONS, first, NULL, options), "PTRACE_SETOPTIONS");
    ptrace(PTRACE_CONT, first, NULL, NULL);
    for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR;) {
        if (!WIFSTOPPED(status)) {
            if (pid == first) code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16, deliver = 0;
        if (event == PTRACE_EVENT_EXEC) {
            if (is_program(pid)) set_breakpoints(pid);
        } else if (!event && signal == SIGTRAP) {
            deliver = met(pid, out) ? 0 : SIGTRAP;
        } else if (!event && signal != SIGSTOP) {
            deliver = signal;
        }
        ptrace(PTRACE_CONT, pid, NULL, deliver);
    }
    return fclose(out) ? 1 : code;
}
