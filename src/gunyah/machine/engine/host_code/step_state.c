/* Software step begins and ends with PSTATE.D too: what the next block of code has to be like, while a vCPU steps itself.
 *
 * Goes before the library's cpu_get_tb_cpu_state(), which is asked before each block. The library keeps what it derives
 * from PSTATE and MDSCR_EL1, and does not derive it again after MSR DAIFSet and DAIFClr.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct header {
    void (*original)(u8 *env, u64 *pc, u64 *base, u32 *flags);
    void (*rebuild_flags)(u8 *env);
    u32 mdscr;
};

__attribute__((section(".header"))) volatile struct header header;

__attribute__((section(".entry"))) void entry(u8 *env, u64 *pc, u64 *base, u32 *flags)
{
    if (*(volatile u64 *)(env + header.mdscr) & 1)
        header.rebuild_flags(env);
    header.original(env, pc, base, flags);
}
