/* Whether a page of virtual memory is watched: asked when the engine makes a TLB entry for it.
 *
 * Takes the place of the library's cpu_watchpoint_address_matches(), which always says no. An entry of a watched page
 * sends every access to it along the slow way, where watch_access.c is asked.
 */

#include "watch.h"

__attribute__((section(".header"))) volatile struct header header;

__attribute__((section(".entry"))) int entry(const u8 *cpu, u64 address, u64 size)
{
    return watched(cpu + header.env, header.values, header.controls, address, size) ? READ | WRITE : 0;
}
