// A Linux program that measures and debugs: what the kernel makes of the performance monitor and the debug registers.
// measure.elf is built from it by
//   aarch64-linux-gnu-gcc -O1 -ffreestanding -fno-stack-protector -nostdlib -static -s -Wl,-n,--build-id=none
//     measure.c -o measure.elf
#include <asm/unistd.h>
#include <linux/elf.h>
#include <linux/fcntl.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <linux/ptrace.h>
#include <asm/ptrace.h>
#include <asm/signal.h>

static long call(long number, long a, long b, long c, long d, long e)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                  x3 __asm__("x3") = d, x4 __asm__("x4") = e;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}

static void say(const char *words, long value)
{
    char line[80];
    int n = 0, digits = 0;
    char number[20];
    while (*words)
        line[n++] = *words++;
    line[n++] = ' ';
    if (value < 0) {
        line[n++] = '-';
        value = -value;
    }
    do
        number[digits++] = '0' + value % 10;
    while (value /= 10);
    while (digits)
        line[n++] = number[--digits];
    line[n++] = '\n';
    call(__NR_write, 1, (long)line, n, 0, 0);
}

static volatile long watched, neighbour;

__attribute__((noinline)) static void target(void)
{
    __asm__ volatile("nop");
}

static void work(void)
{
    for (volatile long n = 0; n < 200000; n++)
        ;
}

static void touch(void)
{
    for (int n = 0; n < 10; n++) {
        watched = n;
        neighbour = n;
    }
    for (int n = 0; n < 7; n++)
        target();
}

static long counted(struct perf_event_attr *event, void (*function)(void))
{
    event->size = sizeof *event;
    event->disabled = 1;
    event->exclude_hv = 1;
    long value = -1, file = call(__NR_perf_event_open, (long)event, 0, -1, -1, 0);
    if (file < 0)
        return file;
    call(__NR_ioctl, file, PERF_EVENT_IOC_ENABLE, 0, 0, 0);
    function();
    call(__NR_ioctl, file, PERF_EVENT_IOC_DISABLE, 0, 0, 0);
    call(__NR_read, file, (long)&value, sizeof value, 0, 0);
    call(__NR_close, file, 0, 0, 0, 0);
    return value;
}

static long cycles(int user, void (*function)(void))
{
    struct perf_event_attr event = { .type = PERF_TYPE_HARDWARE, .config = PERF_COUNT_HW_CPU_CYCLES };
    event.exclude_kernel = user;
    event.exclude_user = !user;
    return counted(&event, function);
}

static long hits(int type, void *address, int length)
{
    struct perf_event_attr event = { .type = PERF_TYPE_BREAKPOINT, .bp_type = type };
    event.bp_addr = (long)address;
    event.bp_len = length;
    event.exclude_kernel = 1;
    return counted(&event, touch);
}

static long steps(int *status)
{
    long child = call(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (!child) {
        call(__NR_ptrace, PTRACE_TRACEME, 0, 0, 0, 0);
        call(__NR_kill, call(__NR_getpid, 0, 0, 0, 0, 0), SIGSTOP, 0, 0, 0);
        for (volatile int n = 0; n < 50; n++)
            ;
        call(__NR_exit, 5, 0, 0, 0, 0);
    }
    long count = 0, before = 0;
    call(__NR_wait4, child, (long)status, 0, 0, 0);
    while (!call(__NR_ptrace, PTRACE_SINGLESTEP, child, 0, 0, 0)) {
        call(__NR_wait4, child, (long)status, 0, 0, 0);
        if (!(*status & 0x7f))
            break;
        struct user_pt_regs registers;
        struct { void *base; unsigned long size; } where = { &registers, sizeof registers };
        call(__NR_ptrace, PTRACE_GETREGSET, child, NT_PRSTATUS, (long)&where, 0);
        count += registers.pc != before;
        before = registers.pc;
    }
    return count;
}

void _start(void)
{
    int status = 0;
    say("user cycles", cycles(1, work));
    say("kernel cycles", cycles(0, work));
    say("writes", hits(HW_BREAKPOINT_W, (void *)&watched, 8));
    say("reads", hits(HW_BREAKPOINT_R, (void *)&watched, 8));
    say("calls", hits(HW_BREAKPOINT_X, target, 4));
    say("steps", steps(&status));
    say("status", status >> 8);
    call(__NR_exit, 0, 0, 0, 0, 0);
}
