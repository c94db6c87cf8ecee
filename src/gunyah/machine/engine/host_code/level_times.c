/* The time that a vCPU spends at EL0 and at EL1: what a performance monitor needs whose counters filter by level.
 *
 * Takes the place of the library's pmu_op_start(), which it calls before each change of the exception level. Time is the
 * host's time stamp counter, or where instructions are counted what is left of their budget, so that it repeats.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

/* One engine: its CPUARMState, the budget (0: none), when the level was entered, and times by level. */
struct account {
    u64 env;
    u64 *budget;
    u64 since;
    u64 spent[2];
};

struct header {
    void *original;
    struct account *account;
    u32 pstate, aarch64;
};

__attribute__((section(".header"))) volatile struct header header;

static inline u64 time_now(const struct account *account)
{
    if (account->budget)
        return -*(volatile u64 *)account->budget;
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

__attribute__((section(".entry"))) void entry(u8 *env)
{
    struct account *account = header.account;
    if (account->env != (u64)env)
        return;
    u64 now = time_now(account);
    u32 privileged = *(volatile u32 *)(env + header.aarch64) && *(volatile u32 *)(env + header.pstate) >> 2 & 3;
    if (account->since)
        account->spent[privileged ? 1 : 0] += now - account->since;
    account->since = now;
}
