/* The look at the stop flag that begins each translated block, without a call.
 *
 * Takes the place of the library's tcg_tb_insert(), which registers a block that has just been translated and has not
 * run yet. Its first instructions call helper_check_exit_request(engine, 0), which looks at one word and nearly always
 * returns. They are rewritten to look at that word themselves and to call only if it is negative. A block that begins
 * otherwise (with a hook) stays as it is.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { CALL_AT = 12, LENGTH = 17, FAR_CALL_AT = 6, FAR_CALL_END = 11 };

/* `rewritten` counts blocks. Offsets: of the code's address from TranslationBlock, of the engine and of the stop flag
 * from CPUARMState. */
struct header {
    void (*insert)(void *context, u8 *block);
    u64 check;
    u64 *rewritten;
    u32 code;
    u32 engine;
    int flag;
};

__attribute__((section(".header"))) volatile struct header header;

/* Called by a block, whose CPUARMState is in rbp: goes on as helper_check_exit_request(engine, 0), which returns to the
 * block or finds it by the return address and leaves it. */
__attribute__((naked, used)) static void leave(void)
{
    __asm__("movslq header+28(%rip), %rax\n"
            "movq (%rbp,%rax), %rdi\n"
            "xorl %esi, %esi\n"
            "jmp *header+8(%rip)\n");
}

static inline long long distance(const u8 *from, u64 to)
{
    return (long long)(to - (u64)from);
}

static void rewrite(u8 *code)
{
    /* mov rdi, engine; xor esi, esi; call check */
    if (code[0] != 0x48 || code[1] != 0xbf || code[10] != 0x33 || code[11] != 0xf6 || code[CALL_AT] != 0xe8)
        return;
    if (*(int *)(code + CALL_AT + 1) != distance(code + LENGTH, header.check))
        return;
    long long far = distance(code + FAR_CALL_END, (u64)leave);
    if (far != (int)far)
        return;
    /* cmp dword [rbp + flag], 0; jns on; call leave; nop...; on: */
    code[0] = 0x83;
    code[1] = 0x7d;
    code[2] = (u8)header.flag;
    code[3] = 0;
    code[4] = 0x79;
    code[5] = LENGTH - FAR_CALL_AT;
    code[FAR_CALL_AT] = 0xe8;
    *(int *)(code + FAR_CALL_AT + 1) = (int)far;
    for (int n = FAR_CALL_END; n < LENGTH; n++)
        code[n] = 0x90;
    ++*header.rewritten;
}

__attribute__((section(".entry"))) void entry(void *context, u8 *block)
{
    rewrite(*(u8 **)(block + header.code));
    header.insert(context, block);
}
