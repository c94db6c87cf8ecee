// The fuzzing guest: it does what a string of bytes in its memory says, at EL1, and goes on whatever comes of it.
//
// A step is 8 bytes: operation, A (8 bits each), B (16 bits), C (32 bits), little-endian; any bytes are steps. The
// guest has a file of 31 registers that steps fill; calls and single instructions run with the file in X0..X30, and
// what they leave there goes back into it. An exception is counted and ends its step. Steps, the lists that they
// choose from, and all that a reader wants to know lie at fixed places behind the code (tools/fuzz/native_guest.py).
// A guest that has shot itself is switched off and on again from outside; it goes on with the next step.

        .include "guest.inc"

        .equ    PAGE_SCRATCH,   0x2000
        .equ    PAGE_CONTROL,   0x3000
        .equ    VALUES,         0x4000          // uint64_t, at most 1024
        .equ    WORDS,          0x6000          // uint32_t, at most 2048
        .equ    TABLES,         0x8000          // stage 1: levels 1, 2, 3, and a spare page
        .equ    DATA,           0xc000          // 16 KiB
        .equ    STEPS,          0x10000

        // Control area: uint64_t each.
        .equ    POSITION,       0x00            // of the next step
        .equ    COUNT,          0x08            // of steps
        .equ    LAPS,           0x10            // so often may REWIND go back
        .equ    DONE,           0x18            // steps begun
        .equ    EXCEPTIONS,     0x20
        .equ    INTERRUPTS,     0x28
        .equ    LAST_ESR,       0x30
        .equ    LAST_FAR,       0x38
        .equ    LAST_ELR,       0x40
        .equ    CALLS,          0x48            // by CALL
        .equ    MARK,           0x50            // what a canary's word gives, multiplied by FACTOR
        .equ    SEEN,           0x58            // the word that did
        .equ    VALUES_MASK,    0x60
        .equ    WORDS_MASK,     0x68
        .equ    REGIME,         0x70            // SCTLR_EL1 between steps
        .equ    IDLE,           0x78            // 1: there is no step left; 2: a canary was read
        .equ    STARTS,         0x80
        .equ    FILE,           0x100           // X0..X30, a word that MOVE may use

        .equ    FACTOR,         0x9e3779b97f4a7c15
        .equ    EL1H_MASKED,    0x3c5
        .equ    SCTLR_RESET,    0x30d00800
        .equ    SCTLR_CHOICE,   0x100f          // M, A, C, SA, I

        .macro  control, reg
        adr     \reg, _start
        add     \reg, \reg, #PAGE_CONTROL
        .endm

        // X30 is in TPIDR_EL1; everything goes into the file, X28 is the control area.
        .macro  save_file
        control x30
        stp     x0, x1, [x30, #FILE]
        stp     x2, x3, [x30, #FILE + 0x10]
        stp     x4, x5, [x30, #FILE + 0x20]
        stp     x6, x7, [x30, #FILE + 0x30]
        stp     x8, x9, [x30, #FILE + 0x40]
        stp     x10, x11, [x30, #FILE + 0x50]
        stp     x12, x13, [x30, #FILE + 0x60]
        stp     x14, x15, [x30, #FILE + 0x70]
        stp     x16, x17, [x30, #FILE + 0x80]
        stp     x18, x19, [x30, #FILE + 0x90]
        stp     x20, x21, [x30, #FILE + 0xa0]
        stp     x22, x23, [x30, #FILE + 0xb0]
        stp     x24, x25, [x30, #FILE + 0xc0]
        stp     x26, x27, [x30, #FILE + 0xd0]
        stp     x28, x29, [x30, #FILE + 0xe0]
        mov     x28, x30
        mrs     x0, tpidr_el1
        str     x0, [x28, #FILE + 0xf0]
        .endm

_start: control x28
        ldr     x0, [x28, #STARTS]
        add     x0, x0, #1
        str     x0, [x28, #STARTS]
        adr     x0, _start
        add     x0, x0, #STEPS
        mov     sp, x0                          // the end of the data area
        mov     x0, #3 << 20
        msr     cpacr_el1, x0
        mov64   x0, SCTLR_RESET
        str     x0, [x28, #REGIME]
        bl      make_tables
        adr     x0, vectors
        msr     vbar_el1, x0
        isb
        bl      gic_start

// -- the loop ---------------------------------------------------------------------------------------------------------

next:   msr     spsel, #1
        msr     daifset, #15
        control x28
        adr     x0, vectors
        mrs     x1, vbar_el1
        cmp     x0, x1
        b.eq    1f
        msr     vbar_el1, x0
1:      ldr     x0, [x28, #REGIME]
        mrs     x1, sctlr_el1
        cmp     x0, x1
        b.eq    2f
        msr     sctlr_el1, x0
        isb
2:      ldr     x0, [x28, #POSITION]
        ldr     x1, [x28, #COUNT]
        cmp     x0, x1
        b.hs    idle
        str     xzr, [x28, #IDLE]
        add     x1, x0, #1
        str     x1, [x28, #POSITION]
        ldr     x1, [x28, #DONE]
        add     x1, x1, #1
        str     x1, [x28, #DONE]
        adr     x1, _start
        add     x1, x1, #STEPS
        ldr     x27, [x1, x0, lsl #3]
        ubfx    x20, x27, #8, #8                // A
        ubfx    x21, x27, #16, #16              // B
        lsr     x22, x27, #32                   // C
        and     x23, x20, #31
        add     x24, x28, #FILE
        and     x1, x27, #15
        adr     x0, operations
        add     x0, x0, x1, lsl #2
        br      x0
operations:
        b       do_list
        b       do_number
        b       do_quad
        b       do_move
        b       do_call
        b       do_word
        b       do_raw
        b       do_jump
        b       do_drop
        b       do_table
        b       do_regime
        b       do_poke
        b       do_rewind
        b       do_call
        b       do_word
        b       do_quad

idle:   mov     x0, #1
        str     x0, [x28, #IDLE]
        wfi
        b       next

// X[A] = VALUES[B], plus C (8 bits, signed) if A has bit 7
do_list:
        bl      value
        tbz     x20, #7, 1f
        sxtb    x1, w22
        add     x0, x0, x1
1:      str     x0, [x24, x23, lsl #3]
        b       next

// X0 = VALUES[X21]
value:  ldr     x0, [x28, #VALUES_MASK]
        and     x0, x0, x21
        add     x1, x28, #VALUES - PAGE_CONTROL
        ldr     x0, [x1, x0, lsl #3]
        ret

// X[A] = C (signed), rotated right by B
do_number:
        sxtw    x0, w22
        ror     x0, x0, x21
        str     x0, [x24, x23, lsl #3]
        b       next

// X[4 * A] and the three behind it = VALUES[a byte of C]
do_quad:
        and     x19, x20, #7
        add     x19, x24, x19, lsl #5
        mov     x18, #4
1:      and     x21, x22, #0xff
        bl      value
        str     x0, [x19], #8
        lsr     x22, x22, #8
        subs    x18, x18, #1
        b.ne    1b
        b       next

// X[A] = X[B] + C (signed)
do_move:
        and     x21, x21, #31
        ldr     x0, [x24, x21, lsl #3]
        add     x0, x0, w22, sxtw
        str     x0, [x24, x23, lsl #3]
        b       next

// Call number A of `calls`
do_call:
        ldr     x0, [x28, #CALLS]
        add     x0, x0, #1
        str     x0, [x28, #CALLS]
        and     x20, x20, #127
        adr     x0, calls
        add     x0, x0, x20, lsl #3
        b       run

// Instruction WORDS[B]; if A has bit 7, with the low 10 bits of C for its two lowest register fields
do_word:
        ldr     x0, [x28, #WORDS_MASK]
        and     x0, x0, x21
        add     x1, x28, #WORDS - PAGE_CONTROL
        ldr     w1, [x1, x0, lsl #2]
        and     x0, x22, #0x3ff
        mov     x22, x1
        tbz     x20, #7, do_raw
        eor     w22, w22, w0

// Instruction C
do_raw: adr     x0, slot
        str     w22, [x0]
        dc      cvau, x0
        dsb     ish
        ic      ivau, x0
        dsb     ish
        isb

// Execute at X0 with the file in the registers; it comes back to `back`, or by an exception
run:    msr     elr_el1, x0
        mov     x0, #EL1H_MASKED
run_at: msr     spsr_el1, x0
        ldr     x0, [x28, #FILE + 0xf8]
        msr     sp_el0, x0
        mov     x30, x28
        ldp     x0, x1, [x30, #FILE]
        ldp     x2, x3, [x30, #FILE + 0x10]
        ldp     x4, x5, [x30, #FILE + 0x20]
        ldp     x6, x7, [x30, #FILE + 0x30]
        ldp     x8, x9, [x30, #FILE + 0x40]
        ldp     x10, x11, [x30, #FILE + 0x50]
        ldp     x12, x13, [x30, #FILE + 0x60]
        ldp     x14, x15, [x30, #FILE + 0x70]
        ldp     x16, x17, [x30, #FILE + 0x80]
        ldp     x18, x19, [x30, #FILE + 0x90]
        ldp     x20, x21, [x30, #FILE + 0xa0]
        ldp     x22, x23, [x30, #FILE + 0xb0]
        ldp     x24, x25, [x30, #FILE + 0xc0]
        ldp     x26, x27, [x30, #FILE + 0xd0]
        ldp     x28, x29, [x30, #FILE + 0xe0]
        ldr     x30, [x30, #FILE + 0xf0]
        eret

// Jump to X[A], with the way back in X30
do_jump:
        ldr     x0, [x24, x23, lsl #3]
        adr     x1, back
        str     x1, [x28, #FILE + 0xf0]
        b       run

// X[A] in the state that C says: EL0 (AArch32 too), EL1 if bit 2 is set; masks, single step and all as they are there
do_drop:
        ldr     x0, [x24, x23, lsl #3]
        msr     elr_el1, x0
        bic     x0, x22, #0xf
        tbz     x22, #2, run_at
        and     x1, x22, #1
        orr     x1, x1, #4
        bic     x0, x0, #0x10
        orr     x0, x0, x1
        b       run_at

// Word B of the translation tables = X[A]; then TLB maintenance, if C is odd
do_table:
        ldr     x0, [x24, x23, lsl #3]
        and     x21, x21, #0x7ff
        add     x1, x28, #TABLES - PAGE_CONTROL
        str     x0, [x1, x21, lsl #3]
        tbz     x22, #0, next
        dsb     ishst
        tlbi    vmalle1
        dsb     ish
        isb
        b       next

// SCTLR_EL1 for the steps to come: MMU, alignment checks, caches as C says; with the tables as they are now
do_regime:
        mov64   x0, SCTLR_RESET
        mov     x1, #SCTLR_CHOICE
        and     x1, x1, x22
        orr     x0, x0, x1
        str     x0, [x28, #REGIME]
        bl      use_tables
        b       next

// A word of the data area, at B = X[A]
do_poke:
        ldr     x0, [x24, x23, lsl #3]
        and     x21, x21, #0x3ff8
        add     x1, x28, #DATA - PAGE_CONTROL
        str     x0, [x1, x21]
        b       next

// Back to the first step, as often as LAPS says
do_rewind:
        ldr     x0, [x28, #LAPS]
        cbz     x0, next
        sub     x0, x0, #1
        str     x0, [x28, #LAPS]
        str     xzr, [x28, #POSITION]
        b       next

// -- what a step has left ---------------------------------------------------------------------------------------------

back:   msr     tpidr_el1, x30
        save_file

// Is a canary's word in a register? X28 is the control area. Nobody can make the word from the mark by accident.
look:   ldr     x0, [x28, #MARK]
        mov64   x4, FACTOR
        add     x1, x28, #FILE
        add     x2, x1, #31 * 8
1:      ldr     x3, [x1], #8
        mul     x5, x3, x4
        cmp     x5, x0
        b.eq    seen
        cmp     x1, x2
        b.lo    1b
        .irp    number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        umov    x3, v\number\().d[0]
        mul     x5, x3, x4
        cmp     x5, x0
        b.eq    seen
        .endr
        b       next
seen:   str     x3, [x28, #SEEN]
        mov     x0, #2
        str     x0, [x28, #IDLE]
        wfi
        b       seen

// -- exceptions -------------------------------------------------------------------------------------------------------

trap:   save_file
        msr     mdscr_el1, xzr                  // a debugger's exceptions come once
        mrs     x0, esr_el1
        str     x0, [x28, #LAST_ESR]
        mrs     x0, far_el1
        str     x0, [x28, #LAST_FAR]
        mrs     x0, elr_el1
        str     x0, [x28, #LAST_ELR]
        ldr     x0, [x28, #EXCEPTIONS]
        add     x0, x0, #1
        str     x0, [x28, #EXCEPTIONS]
        b       look

// Acknowledge, make it quiet, end it.
interrupt:
        save_file
        ldr     x0, [x28, #INTERRUPTS]
        add     x0, x0, #1
        str     x0, [x28, #INTERRUPTS]
        mrs     x0, S3_0_C12_C12_0              // ICC_IAR1_EL1
        cmp     x0, #SPURIOUS - 3
        b.hs    look
        msr     cntv_ctl_el0, xzr
        msr     cntp_ctl_el0, xzr
        msr     S3_0_C12_C12_1, x0              // ICC_EOIR1_EL1
        mov     x1, #1
        lsl     w1, w1, w0
        mov64   x2, GICD + 0x180
        cmp     x0, #32
        b.hs    1f
        mrs     x3, mpidr_el1
        and     x3, x3, #0xff
        mov64   x2, GICR + GICR_SGI + 0x180
        add     x2, x2, x3, lsl #17
1:      lsr     x3, x0, #5
        str     w1, [x2, x3, lsl #2]
        b       look

// -- translation ------------------------------------------------------------------------------------------------------

// make_tables(): addresses for themselves, 1 GiB a block; 2 MiB blocks around this code, pages in its own block
make_tables:
        add     x0, x28, #TABLES - PAGE_CONTROL
        add     x1, x0, #0x1000
        add     x2, x0, #0x2000
        adr     x3, _start
        mov     x4, #0
        mov64   x5, 0x705                       // normal memory
        mov64   x6, 0x401                       // device
1:      lsl     x7, x4, #30
        orr     x8, x7, x5
        orr     x9, x7, x6
        cmp     x4, #0
        csel    x8, x9, x8, eq
        str     x8, [x0, x4, lsl #3]
        add     x4, x4, #1
        cmp     x4, #512
        b.ne    1b
        lsr     x7, x3, #30
        orr     x8, x1, #3
        str     x8, [x0, x7, lsl #3]
        lsl     x7, x7, #30
        mov     x4, #0
2:      add     x8, x7, x4, lsl #21
        orr     x8, x8, x5
        str     x8, [x1, x4, lsl #3]
        add     x4, x4, #1
        cmp     x4, #512
        b.ne    2b
        ubfx    x4, x3, #21, #9
        orr     x8, x2, #3
        str     x8, [x1, x4, lsl #3]
        and     x7, x3, #~0x1fffff
        mov     x4, #0
        mov64   x5, 0x707
3:      add     x8, x7, x4, lsl #12
        orr     x8, x8, x5
        str     x8, [x2, x4, lsl #3]
        add     x4, x4, #1
        cmp     x4, #512
        b.ne    3b
use_tables:
        add     x0, x28, #TABLES - PAGE_CONTROL
        mov     x1, #0xff00                     // MAIR: 0 device, 1 normal write-back
        msr     mair_el1, x1
        mov64   x1, 0x0000000100803519          // 39-bit VAs, 4 KiB, walks cached, TTBR1 off, 36-bit PAs
        msr     tcr_el1, x1
        msr     ttbr0_el1, x0
        dsb     ish
        tlbi    vmalle1
        dsb     ish
        isb
        ret

        .include "lib.inc"

// -- vectors ----------------------------------------------------------------------------------------------------------

        .macro  vector, target
        .balign 0x80
        msr     tpidr_el1, x30
        b       \target
        .endm

        .balign 0x800
vectors:
        .rept   4
        vector  trap
        vector  interrupt
        vector  interrupt
        vector  trap
        .endr

        // What CALL can call: every number of the native encoding, and other ways out.
        .balign 0x80
calls:  .set    number, 0
        .rept   0x70
        hvc     #0x6000 + number
        b       back
        .set    number, number + 1
        .endr
        .irp    instruction, "hvc #0", "hvc #0", "hvc #0", "smc #0", "smc #0", "hvc #1", "smc #1", "hvc #0xffff"
        \instruction
        b       back
        .endr
        .irp    instruction, "wfi", "wfe", "svc #0", "brk #0", "yield", "eret", "hlt #0", "isb"
        \instruction
        b       back
        .endr

        // The page of the one instruction: a branch from it to nearby comes back.
        .org    PAGE_SCRATCH
        .rept   0x200
        b       back
        .endr
slot:   nop
        .rept   0x1ff
        b       back
        .endr
