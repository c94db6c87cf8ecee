/* Whether a page of virtual memory is watched: asked when the engine makes a TLB entry for it.
 *
 * Takes the place of the library's cpu_watchpoint_address_matches(), which always says no. An entry of a watched page
 * sends every access to it along the slow way, where watch_access.c is asked.
 */

#include "watch.h"

/* env: offset of CPUARMState in CPUState; values, controls: of DBGWVR<n>_EL1 and DBGWCR<n>_EL1 in CPUARMState. */
struct header {
    void *original;
    void **engines;
    u32 env, values, controls;
};

__attribute__((section(".header"))) volatile struct header header;

__attribute__((section(".entry"))) int entry(const u8 *cpu, u64 address, u64 size)
{
    const u8 *env = cpu + header.env;
    const struct watches *watches = engine_of(header.engines, env);
    if (watches && touched(watches, watches->page, PAGE, READ | WRITE))
        return READ | WRITE;
    return watched(env, header.values, header.controls, address, size) ? READ | WRITE : 0;
}
