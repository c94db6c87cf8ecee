/* What both watchpoint helpers know: the header that is filled in when they are placed, and the coarse comparison. */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { READ = 1, WRITE = 2, WATCHPOINTS = 4 };
/* Bit of MemTxAttrs that says an access is one of EL0. */
enum { USER = 2 };

struct header {
    void *original;
    /* env: offset of CPUARMState in CPUState; values, controls: of DBGWVR<n>_EL1 and DBGWCR<n>_EL1 in CPUARMState. */
    u32 env, values, controls, reserved;
    u32 (*decide)(const u8 *cpu, u64 address, u64 size, u32 user, int kind);
    void (*raise_exception)(u8 *env, u32 number, u32 syndrome, u32 level);
    int (*restore_state)(u8 *cpu, u64 host_pc, int leaves);
};

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
