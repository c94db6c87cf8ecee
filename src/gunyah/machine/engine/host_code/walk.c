/* A vCPU's address translation, the short way: EL1&0 regime with both stages on, granule of 4 KiB, tables in RAM.
 *
 * Takes the place of the library's get_phys_addr() for engines that are registered in `header.engines`. It says yes, and
 * says where stage 2 has nothing at all, as for an emulated device. Whatever else is not an access that both stages
 * permit, from tables of the usual kind, goes to the library's own function, which finds out what the matter is. Nothing
 * is remembered between calls, so nothing can be stale.
 *
 * VMSAv8-64 (Arm DDI 0487, D8) as the library's CPU has it: no FEAT_XNX, no hierarchical permission disables.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { READ = 1, WRITE = 2, EXECUTE = 4 };
#include "engines.h"

enum { LEVELS = 4, STRIDE = 9, REGIONS = 4 };

#define ADDRESS 0x0000fffffffff000ull
#define BITS(value, low, count) ((value) >> (low) & ((1ull << (count)) - 1))

struct region {
    u64 base, size;
    u8 *host;
};

/* One engine: its CPUARMState, the RAM its tables may be in, and how often the short way was one. */
struct core {
    u64 env;
    u64 taken;
    struct region regions[REGIONS];
};

typedef u8 get_phys_addr(u8 *env, u64 va, u32 access, u32 index, u64 *pa, u32 *attrs, u32 *protection, u64 *size,
                         void *fault, void *cache_attrs);

/* Filled in when the code is placed: offsets are those of CPUARMState. */
struct header {
    get_phys_addr *original;
    void **engines;
    u32 hcr, vttbr, vtcr, sctlr, tcr, ttbr0, ttbr1, reserved;
};

__attribute__((section(".header"))) volatile struct header header;

/* A stage-2 block or page, kept while one translation lasts. */
struct leaf {
    u64 ipa, size, pa, descriptor;
};

struct stage2 {
    struct core *core;
    u64 root, index_mask;
    u32 start, input;
    u8 need_normal_tables;
    u32 absent; /* level of the descriptor that is not valid, LEVELS if that is not why there is no leaf */
    struct leaf leaf;
};

/* ARMMMUFaultInfo */
struct fault {
    u32 type, reserved;
    u64 s2addr;
    u32 level, domain;
    u8 stage2, s1ptw, s1ns, ea;
};

enum { ASK, PERMITTED, FAULT };
enum { ARM_FAULT_TRANSLATION = 6 };

static inline u64 *host_of(const struct core *core, u64 pa)
{
    for (int n = 0; n < REGIONS; n++) {
        u64 offset = pa - core->regions[n].base;
        if (offset < core->regions[n].size)
            return (u64 *)(core->regions[n].host + offset);
    }
    return 0;
}

static inline int find_leaf(struct stage2 *s, u64 ipa)
{
    if (ipa - s->leaf.ipa < s->leaf.size)
        return 1;
    s->absent = LEVELS;
    if (ipa >> s->input)
        return 0;
    u64 table = s->root, mask = s->index_mask;
    for (u32 level = s->start; level < LEVELS; level++) {
        u32 shift = 12 + STRIDE * (3 - level);
        u64 *entry = host_of(s->core, table + ((ipa >> shift & mask) << 3));
        if (!entry)
            return 0;
        u64 descriptor = *(volatile u64 *)entry;
        if (!(descriptor & 1)) {
            s->absent = level;
            return 0;
        }
        if ((level == 3 && !(descriptor & 2)) || (level == 0 && !(descriptor & 2)))
            return 0;
        if (level == 3 || !(descriptor & 2)) {
            u64 size = 1ull << shift;
            if (!(descriptor & 1 << 10) || (descriptor & ADDRESS & (size - 1)))
                return 0;
            s->leaf.ipa = ipa & -size;
            s->leaf.size = size;
            s->leaf.pa = descriptor & ADDRESS;
            s->leaf.descriptor = descriptor;
            return 1;
        }
        table = descriptor & ADDRESS;
        mask = (1 << STRIDE) - 1;
    }
    return 0;
}

static inline u32 stage2_protection(u64 descriptor)
{
    return BITS(descriptor, 6, 2) | (BITS(descriptor, 54, 1) ? 0 : EXECUTE);
}

static inline u32 stage1_protection(u32 ap, int user, int xn, int pxn)
{
    u32 of_user = ap == 1 ? READ | WRITE : ap == 3 ? READ : 0;
    u32 data = user ? of_user : ap & 2 ? READ : READ | WRITE;
    int never = user ? xn : pxn || (of_user & WRITE);
    return data | (never ? 0 : EXECUTE);
}

static inline int translate(struct core *core, u8 *env, u64 va, u32 access, int user, u64 *pa, u32 *protection,
                            u64 *size, struct fault *fault)
{
#define REGISTER(name) (*(u64 *)(env + header.name))
    u64 hcr = REGISTER(hcr), sctlr = REGISTER(sctlr), tcr = REGISTER(tcr), vtcr = REGISTER(vtcr);
    /* VM and RW, neither TGE nor DC nor E2H; MMU on, little-endian, no WXN */
    if ((hcr & (1ull << 34 | 1ull << 31 | 1ull << 27 | 1 << 12 | 1)) != (1ull << 31 | 1))
        return ASK;
    if ((sctlr & (1ull << 25 | 1 << 19 | 1)) != 1)
        return ASK;

    u32 upper = BITS(va, 55, 1), fields = upper ? 16 : 0;
    u32 tsz = BITS(tcr, fields, 6);
    if (BITS(tcr, fields + 7, 1) || BITS(tcr, 14 + fields, 2) != (upper ? 2 : 0) || BITS(tcr, 41 + upper, 1))
        return ASK;
    if (tsz < 16 || tsz > 39)
        return ASK;
    u32 input = 64 - tsz;
    if ((u64)((long long)va >> input) != -(u64)upper)
        return ASK;

    u32 tsz2 = BITS(vtcr, 0, 6), sl0 = BITS(vtcr, 6, 2);
    if (tsz2 < 16 || tsz2 > 39 || sl0 > 2 || BITS(vtcr, 14, 2))
        return ASK;
    struct stage2 s = { .core = core };
    s.start = 2 - sl0;
    s.input = 64 - tsz2;
    u32 start_shift = 12 + STRIDE * (3 - s.start);
    if (s.input <= start_shift || s.input > start_shift + STRIDE + 4)
        return ASK;
    s.index_mask = (1ull << (s.input - start_shift)) - 1;
    s.root = REGISTER(vttbr) & 0xffffffffffffull & ~(s.index_mask << 3 | 7);
    s.need_normal_tables = BITS(hcr, 2, 1);

    u32 level = 4 - (input - 4) / STRIDE;
    u32 first_bits = input - (12 + STRIDE * (3 - level));
    u64 mask = (1ull << first_bits) - 1;
    u64 table = (upper ? REGISTER(ttbr1) : REGISTER(ttbr0)) & 0xffffffffffffull & ~(mask << 3 | 7);
    u32 limits = 0; /* of the tables on the way: APTable[1:0], UXNTable, PXNTable as bits 2, 3, 1, 0 */
    for (;; level++) {
        u32 shift = 12 + STRIDE * (3 - level);
        u64 at = table + ((va >> shift & mask) << 3);
        if (!find_leaf(&s, at) || !(s.leaf.descriptor & 1 << 6))
            return ASK;
        if (s.need_normal_tables && !(s.leaf.descriptor >> 4 & 3))
            return ASK;
        u64 *entry = host_of(core, s.leaf.pa + (at - s.leaf.ipa));
        if (!entry)
            return ASK;
        u64 descriptor = *(volatile u64 *)entry;
        if (!(descriptor & 1) || ((level == 3 || level == 0) && !(descriptor & 2)))
            return ASK;
        if (level < 3 && (descriptor & 2)) {
            limits |= BITS(descriptor, 59, 4);
            table = descriptor & ADDRESS;
            mask = (1 << STRIDE) - 1;
            continue;
        }
        if (!(descriptor & 1 << 10))
            return ASK;
        u32 ap = BITS(descriptor, 6, 2);
        if (limits & 4)
            ap &= ~1u;
        if (limits & 8)
            ap |= 2;
        int xn = BITS(descriptor, 54, 1) | (limits >> 1 & 1), pxn = BITS(descriptor, 53, 1) | (limits & 1);
        u32 may = stage1_protection(ap, user, xn, pxn);
        *size = 1ull << shift;
        if (descriptor & ADDRESS & (*size - 1))
            return ASK;
        u64 ipa = (descriptor & ADDRESS) | (va & (*size - 1));
        if (!(may >> access & 1))
            return ASK;
        if (!find_leaf(&s, ipa)) {
            if (s.absent == LEVELS)
                return ASK;
            fault->type = ARM_FAULT_TRANSLATION;
            fault->s2addr = ipa;
            fault->level = s.absent;
            fault->stage2 = 1;
            return FAULT;
        }
        u32 may2 = stage2_protection(s.leaf.descriptor);
        if (!(may2 >> access & 1))
            return ASK;
        *protection = may & may2;
        *pa = s.leaf.pa + (ipa - s.leaf.ipa);
        return PERMITTED;
    }
}

/* bool get_phys_addr(CPUARMState *env, target_ulong va, MMUAccessType access, ARMMMUIdx index, hwaddr *pa,
 *                    MemTxAttrs *attrs, int *protection, target_ulong *size, ARMMMUFaultInfo *, ARMCacheAttrs *);
 * true is a fault.
 *
 * The size is that of stage 1's page or block, because it only says what TLB maintenance of one address has to drop. */
__attribute__((section(".entry"))) u8 entry(u8 *env, u64 va, u32 access, u32 index, u64 *pa, u32 *attrs,
                                            u32 *protection, u64 *size, void *fault, void *cache_attrs)
{
    enum { ARM_MMU_IDX_E10_0 = 0x10, ARM_MMU_IDX_E10_1 = 0x12, USER = 4 };
    struct core *core = engine_of(header.engines, env);
    if (core && (index == ARM_MMU_IDX_E10_0 || index == ARM_MMU_IDX_E10_1) && access < 3
        && !cache_attrs) {
        int user = index == ARM_MMU_IDX_E10_0;
        switch (translate(core, env, va, access, user, pa, protection, size, fault)) {
        case PERMITTED:
            *attrs = user ? USER : 0;
            core->taken++;
            return 0;
        case FAULT:
            return 1;
        }
    }
    return header.original(env, va, access, index, pa, attrs, protection, size, fault, cache_attrs);
}
