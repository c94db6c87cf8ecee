/* Which physical page the TLB entry is for that is being made: noted for watch_page.c, which is only told the virtual one.
 *
 * Goes before the library's tlb_set_page_with_attrs().
 */

#include "watch.h"

typedef void set_page(u8 *cpu, u64 address, u64 physical, u32 attributes, int protection, int index, u64 size);

struct header {
    set_page *original;
    void **engines;
    u32 env;
};

__attribute__((section(".header"))) volatile struct header header;

__attribute__((section(".entry"))) void entry(u8 *cpu, u64 address, u64 physical, u32 attributes, int protection,
                                              int index, u64 size)
{
    struct watches *watches = engine_of(header.engines, cpu + header.env);
    if (watches)
        watches->page = physical & -(u64)PAGE;
    header.original(cpu, address, physical, attributes, protection, index, size);
}
