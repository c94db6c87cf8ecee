// Plain computation, to compare engines: arithmetic, then copying and summing memory. Says its name after each loop.
// Needs no hypervisor: it also runs as the -kernel of another machine with a PL011 at the same place and PSCI by HVC.

        .include "guest.inc"

        .equ    ALU_ROUNDS,     200000000
        .equ    COPIES,         60
        .equ    COPY_BYTES,     0x800000

_start: adr     x1, stack
        mov     sp, x1
        bl      mmu_on
        say     "ready\n"

        mov64   x19, ALU_ROUNDS
1:      add     x0, x0, x1
        eor     x1, x1, x0
        sub     x2, x2, x1
        lsl     x3, x2, #3
        orr     x0, x0, x3
        add     x1, x1, #1
        subs    x19, x19, #1
        b.ne    1b
        say     "alu\n"

        mov     x19, #COPIES
2:      adr     x0, tables
        add     x0, x0, #0x100, lsl #12
        add     x1, x0, #COPY_BYTES >> 12, lsl #12
        mov     x2, #COPY_BYTES / 16
3:      ldp     x3, x4, [x0], #16
        stp     x3, x4, [x1], #16
        ldr     x6, [x0, #-8]
        add     x5, x5, x6
        subs    x2, x2, #1
        b.ne    3b
        subs    x19, x19, #1
        b.ne    2b
        say     "copy\n"
        psci    PSCI_SYSTEM_OFF

        .include "mmu.inc"
        .include "lib.inc"

        // Data: the two pages before are read-only.
        .org    0x2000
        .space  4096
stack:
        .balign 0x1000
tables: .space  0x3000
