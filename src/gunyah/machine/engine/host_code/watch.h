/* What the watchpoint helpers know: watches on physical memory that EL2 has set, and a vCPU's own watchpoints. */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#include "engines.h"

enum { READ = 1, WRITE = 2, WATCHPOINTS = 4, RANGES = 64, PAGE = 4096 };

struct range {
    u64 first, last, kinds;
};

/* EL2's watches on one engine, found by its CPUARMState: the page that a TLB entry is being made for, and the last hit. */
struct watches {
    u64 env;
    u64 armed;
    u64 page;
    u64 hit_address, hit_physical, hit_size, hit_kind;
    u64 count;
    struct range ranges[RANGES];
};

static inline int touched(const struct watches *watches, u64 address, u64 size, u64 kinds)
{
    u64 last = address + size - 1;
    for (u64 n = 0; n < watches->count; n++) {
        const struct range *range = &watches->ranges[n];
        if ((range->kinds & kinds) && range->first <= last && address <= range->last)
            return 1;
    }
    return 0;
}

/* Whether a watchpoint that is enabled has a byte in the doublewords, or in the larger aligned area, that are touched. */
static inline int watched(const u8 *env, u32 values, u32 controls, u64 address, u64 size)
{
    u64 last = address + size - 1;
    for (int n = 0; n < WATCHPOINTS; n++) {
        u64 control = *(volatile u64 *)(env + controls + 8 * n);
        if (!(control & 1))
            continue;
        u32 mask = control >> 24 & 31;
        u64 area = (1ull << (mask < 3 ? 3 : mask)) - 1;
        u64 first = *(volatile u64 *)(env + values + 8 * n) & ~area;
        if (first <= last && address <= (first | area))
            return 1;
    }
    return 0;
}
