/* Whether an access to a watched page is a watchpoint exception: asked before the access happens.
 *
 * Takes the place of the library's cpu_check_watchpoint(), which does nothing. EL2's watches are compared to the byte of
 * physical memory. A vCPU's own watchpoints are compared to the doubleword; who hits one is brought to `decide`, which
 * knows the rest of the architecture's rules and gives the syndrome of the exception that EL1 takes, or 0.
 */

#include "watch.h"

enum { EXCP_UDEF = 1, EXCP_DATA_ABORT = 4, SYNDROME = 0x34 << 26 | 1 << 25 | 0x22 };
/* Bit of MemTxAttrs that says an access is one of EL0, and the MMU indexes of both levels. */
enum { USER = 2, INDEX_EL0 = 0, INDEX_EL1 = 2 };

struct header {
    void *original;
    void **engines;
    u32 env, values, controls, reserved;
    u32 (*decide)(const u8 *cpu, u64 address, u64 size, u32 user, int kind);
    void (*raise_exception)(u8 *env, u32 number, u32 syndrome, u32 level);
    int (*restore_state)(u8 *cpu, u64 host_pc, int leaves);
    u8 (*physical)(u8 *env, u64 address, u32 access, int index, u64 *physical);
};

__attribute__((section(".header"))) volatile struct header header;

__attribute__((section(".entry"))) void entry(u8 *cpu, u64 address, u64 size, u32 attributes, int kind, u64 host_pc)
{
    /* An unaligned store comes with sizes that mean nothing, and then once more for each of its bytes. */
    if (size & (size - 1))
        return;
    u8 *env = cpu + header.env;
    int user = attributes >> USER & 1;
    struct watches *watches = engine_of(header.engines, env);
    u64 physical;
    if (watches && watches->armed
        && header.physical(env, address, kind == WRITE, user ? INDEX_EL0 : INDEX_EL1, &physical)
        && touched(watches, physical, size, kind)) {
        watches->hit_address = address;
        watches->hit_physical = physical;
        watches->hit_size = size;
        watches->hit_kind = kind;
        header.restore_state(cpu, host_pc, 1);
        header.raise_exception(env, EXCP_UDEF, SYNDROME, 2);
    }
    if (!watched(env, header.values, header.controls, address, size))
        return;
    header.restore_state(cpu, host_pc, 1);
    u32 syndrome = header.decide(cpu, address, size, user, kind);
    if (syndrome)
        header.raise_exception(env, EXCP_DATA_ABORT, syndrome, 1);
}
