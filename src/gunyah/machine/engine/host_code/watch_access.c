/* Whether an access to a watched page is a watchpoint exception: asked before the access happens.
 *
 * Takes the place of the library's cpu_check_watchpoint(), which does nothing. Here the vCPU's watchpoints are compared
 * to the doubleword; who hits one is brought to `decide`, which knows the rest of the architecture's rules and gives the
 * syndrome of the exception that EL1 takes, or 0.
 */

#include "watch.h"

enum { EXCP_DATA_ABORT = 4 };

__attribute__((section(".header"))) volatile struct header header;

__attribute__((section(".entry"))) void entry(u8 *cpu, u64 address, u64 size, u32 attributes, int kind, u64 host_pc)
{
    /* An unaligned store comes with sizes that mean nothing, and then once more for each of its bytes. */
    if (size & (size - 1))
        return;
    u8 *env = cpu + header.env;
    if (!watched(env, header.values, header.controls, address, size))
        return;
    header.restore_state(cpu, host_pc, 1);
    u32 syndrome = header.decide(cpu, address, size, attributes >> USER & 1, kind);
    if (syndrome)
        header.raise_exception(env, EXCP_DATA_ABORT, syndrome, 1);
}
