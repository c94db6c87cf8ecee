/* One TLB for each address space identifier, and TLBs that grow when they are full.
 *
 * The library has one TLB for each level of the EL1&0 regime, and empties them with the cache of translated blocks when
 * an ASID changes. Here they are put aside instead, and come back when both ASID fields (TTBR0_EL1, TTBR1_EL1) are what
 * they were. An entry is therefore used only under the very fields it was made under, which is less than the architecture
 * grants: there it may also be used under others if it is global. TLB maintenance for an address removes that address
 * from all sets, any other flush drops all of them but the present one, which the library empties itself.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#include "engines.h"

enum { SETS = 8, LEVELS = 2, VICTIMS = 8, FIRST_ENTRIES = 256, MOST_ENTRIES = 1 << 13 };

/* CPUARMState: what is around it in the verified build. */
enum {
    CPU = -0xa350,
    JUMP_CACHE = -0xa218,
    JUMP_CACHE_SIZE = 0x8000,
    DIRTY = -0x2190,
    DESCRIPTIONS = -0x2170,
    TABLES = -0xd0,
};

struct entry {
    u64 read, write, code, physical, addend, unused[3];
};

/* CPUTLBDesc and CPUTLBDescFast */
struct description {
    u64 large_address, large_mask, window_begin, window_most, used, victim;
    struct entry victims[VICTIMS];
    u8 victim_places[VICTIMS * 16];
    u8 *places;
};

struct table {
    u64 mask;
    struct entry *entries;
};

struct aside {
    struct description description;
    struct table table;
};

struct set {
    u64 asids;
    u64 generation;
    u64 last_use;
    u64 *jumps;
    struct aside level[LEVELS];
};

/* One engine. Sets of an older generation are empty; what the present set holds here is out of date. */
struct core {
    u64 env;
    u64 generation;
    u64 present;
    u64 switches, fresh, grown;
    u32 ttbr0, ttbr1;
    struct set sets[SETS];
};

struct header {
    void **engines;
    void (*flush)(u8 *cpu, u16 indexes);
    void (*flush_page)(u8 *cpu, u64 address, u16 indexes);
    void (*forget_blocks)(void *context);
    void (*write_ttbr)(u8 *env, u8 *description, u64 value);
    u8 (*fill)(u8 *cpu, u64 address, int size, u32 access, int index, u8 probe, u64 return_address);
    void *(*allocate)(u64 size);
    void (*release)(void *);
};

__attribute__((section(".header"))) volatile struct header header;

/* ARMMMUIdx_E10_0 and ARMMMUIdx_E10_1. The third of the regime needs FEAT_PAN, which the modelled CPU lacks. */
static const u8 index_of[LEVELS] = { 0, 2 };
enum { INDEXES = 1 << 0 | 1 << 2, ALL_INDEXES = 0xfff };

static inline struct core *core_of(const u8 *env)
{
    return engine_of(header.engines, env);
}

static inline struct description *description(u8 *env, int index)
{
    return (struct description *)(env + DESCRIPTIONS) + index;
}

static inline struct table *table(u8 *env, int index)
{
    return (struct table *)(env + TABLES) + index;
}

static inline void fill_words(void *to, u64 value, u64 bytes)
{
    u64 count = bytes / 8;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

static inline void copy(void *to, const void *from, u64 bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static int allocate_table(struct table *table, u8 **places, u64 entries)
{
    struct entry *fresh = header.allocate(entries * sizeof(struct entry));
    u8 *fresh_places = header.allocate(entries * 16);
    if (!fresh || !fresh_places) {
        header.release(fresh);
        header.release(fresh_places);
        return 0;
    }
    table->entries = fresh;
    table->mask = (entries - 1) * sizeof(struct entry);
    *places = fresh_places;
    return 1;
}

static int furnish(struct set *set, u64 window_begin)
{
    if (!set->jumps && !(set->jumps = header.allocate(JUMP_CACHE_SIZE)))
        return 0;
    for (int n = 0; n < LEVELS; n++) {
        struct aside *level = &set->level[n];
        if (level->table.entries)
            continue;
        if (!allocate_table(&level->table, &level->description.places, FIRST_ENTRIES))
            return 0;
        level->description.window_begin = window_begin;
    }
    return 1;
}

static struct set *choose(struct core *core, u64 asids)
{
    struct set *oldest = 0;
    for (u32 n = 0; n < SETS; n++) {
        struct set *set = &core->sets[n];
        if (n == core->present)
            continue;
        if (set->generation == core->generation && set->asids == asids)
            return set;
        if (set->generation != core->generation)
            set->last_use = 0;
        if (!oldest || set->last_use < oldest->last_use)
            oldest = set;
    }
    return oldest;
}

/* Everything is as if the library had flushed, afterwards, except that some of it is there again. */
static int change(struct core *core, u8 *env, u64 before, u64 asids)
{
    struct set *from = &core->sets[core->present], *to = choose(core, asids);
    if (!furnish(to, description(env, index_of[0])->window_begin))
        return 0;
    if (!from->jumps && !(from->jumps = header.allocate(JUMP_CACHE_SIZE)))
        return 0;
    u16 *dirty = (u16 *)(env + DIRTY);
    if (*dirty & ~INDEXES)
        header.flush(env + CPU, ALL_INDEXES & ~INDEXES);
    int known = to->generation == core->generation && to->asids == asids;
    core->switches++;
    from->asids = before;
    from->generation = core->generation;
    from->last_use = core->switches;
    copy(from->jumps, env + JUMP_CACHE, JUMP_CACHE_SIZE);
    for (int n = 0; n < LEVELS; n++) {
        struct description *d = description(env, index_of[n]);
        struct table *t = table(env, index_of[n]);
        struct aside *old = &from->level[n], *new = &to->level[n];
        copy(&old->description, d, sizeof *d);
        copy(&old->table, t, sizeof *t);
        copy(d, &new->description, sizeof *d);
        copy(t, &new->table, sizeof *t);
    }
    core->present = (u64)(to - core->sets);
    *dirty |= INDEXES;
    if (known) {
        copy(env + JUMP_CACHE, to->jumps, JUMP_CACHE_SIZE);
    } else {
        core->fresh++;
        header.flush(env + CPU, INDEXES);
    }
    return 1;
}

static u64 asids(const struct core *core, const u8 *env)
{
    return *(u64 *)(env + core->ttbr0) >> 48 << 16 | *(u64 *)(env + core->ttbr1) >> 48;
}

/* void write(CPUARMState *, const ARMCPRegInfo *, uint64_t) of TTBR0_EL1 and TTBR1_EL1 */
__attribute__((used)) static void write_ttbr(u8 *env, u8 *info, u64 value)
{
    struct core *core = core_of(env);
    u64 *field = (u64 *)(env + *(u64 *)(info + 0x30));
    if (!core) {
        header.write_ttbr(env, info, value);
        return;
    }
    u64 old = *field, before = asids(core, env);
    *field = value;
    if ((old ^ value) >> 48 && !change(core, env, before, asids(core, env))) {
        core->generation++;
        header.flush(env + CPU, ALL_INDEXES);
    }
}

__attribute__((used)) static void flush(u8 *cpu, u16 indexes)
{
    struct core *core = core_of(cpu - CPU);
    if (core)
        core->generation++;
    header.flush(cpu, indexes);
}

static inline int about(u64 address, u64 page)
{
    return address != ~0ull && (address & ~0xfffull) == page;
}

static inline void forget_entry(struct description *d, struct entry *entry, u64 page)
{
    if (about(entry->read, page) || about(entry->write, page) || about(entry->code, page)) {
        fill_words(entry, ~0ull, sizeof *entry);
        d->used--;
    }
}

static inline void forget_page(struct set *set, u64 page)
{
    for (int n = 0; n < LEVELS; n++) {
        struct description *d = &set->level[n].description;
        struct table *t = &set->level[n].table;
        if ((page & d->large_mask) == d->large_address) {
            set->generation = 0;
            return;
        }
        forget_entry(d, t->entries + (page >> 12 & t->mask / sizeof(struct entry)), page);
        for (int victim = 0; victim < VICTIMS; victim++)
            forget_entry(d, &d->victims[victim], page);
    }
    /* A block begins in the page or ends there. */
    for (int n = 0; n < 2; n++) {
        u64 address = page - 0x1000 * n;
        fill_words(set->jumps + ((address ^ address >> 6) >> 6 & 0xfc0), 0, 64 * sizeof(u64));
    }
}

__attribute__((used)) static void flush_page(u8 *cpu, u64 address, u16 indexes)
{
    struct core *core = core_of(cpu - CPU);
    if (core) {
        for (u32 n = 0; n < SETS; n++) {
            struct set *set = &core->sets[n];
            if (n != core->present && set->generation == core->generation)
                forget_page(set, address & ~0xfffull);
        }
    }
    header.flush_page(cpu, address, indexes);
}

/* The memory of all translated blocks is used anew: lists of blocks that were put aside lead nowhere. */
__attribute__((used)) static void forget_blocks(void *context)
{
    for (u32 n = 0; n < ENGINES; n++)
        if (header.engines[n])
            ((struct core *)header.engines[n])->generation++;
    header.forget_blocks(context);
}

static void grow(struct core *core, struct description *d, struct table *t)
{
    u64 entries = t->mask / sizeof(struct entry) + 1;
    struct table larger;
    u8 *places;
    if (d->used * 4 <= entries * 3 || entries >= MOST_ENTRIES || !allocate_table(&larger, &places, entries * 2))
        return;
    core->grown++;
    fill_words(larger.entries, ~0ull, larger.mask + sizeof(struct entry));
    header.release(t->entries);
    header.release(d->places);
    *t = larger;
    d->places = places;
    if (d->window_most < d->used)
        d->window_most = d->used;
    d->used = 0;
}

/* bool fill(CPUState *, vaddr, int size, MMUAccessType, int mmu_idx, bool probe, uintptr_t return_address): callers
 * look up their entry anew afterwards. */
__attribute__((used)) static u8 fill(u8 *cpu, u64 address, int size, u32 access, int index, u8 probe,
                                     u64 return_address)
{
    u8 *env = cpu - CPU;
    struct core *core = core_of(env);
    if (core && (index == index_of[0] || index == index_of[1]))
        grow(core, description(env, index), table(env, index));
    return header.fill(cpu, address, size, access, index, probe, return_address);
}

/* Entry n is at 8 n. */
__attribute__((naked, section(".entry"))) void entry(void)
{
    __asm__(".balign 8\n jmp flush\n"
            ".balign 8\n jmp flush_page\n"
            ".balign 8\n jmp forget_blocks\n"
            ".balign 8\n jmp write_ttbr\n"
            ".balign 8\n jmp fill\n");
}
