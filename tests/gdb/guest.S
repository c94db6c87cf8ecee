// The guest that the tests of the gdb stub debug. guest.elf is built from it by
//   aarch64-linux-gnu-as guest.S -o guest.o && aarch64-linux-gnu-ld -n -Ttext=0x41000000 guest.o -o guest.elf
    .global _start
_start:
    adr  x20, counter
    adr  x9, stack_top
    mov  sp, x9
    adr  x9, vectors
    msr  vbar_el1, x9
    mov  x19, #3
again:
    mov  x0, x19
    bl   work
    subs x19, x19, #1
    b.ne again
    mov  w0, #3             // PSCI CPU_ON, 0xc4000003
    movk w0, #0xc400, lsl #16
    mov  x1, #1
    adr  x2, second
    mov  x3, #0x77
    hvc  #0
    adr  x20, flag
wait:
    ldr  x0, [x20]
    cbz  x0, wait
finish:
    mov  w0, #8             // PSCI SYSTEM_OFF, 0x84000008
    movk w0, #0x8400, lsl #16
    hvc  #0
    b    finish

work:                       // counter += x0
    ldr  x1, [x20]
    add  x1, x1, x0
    str  x1, [x20]
    ret

second:                     // the second vCPU, x0 is 0x77
    adr  x20, flag
    str  x0, [x20]
parked:
    wfi
    b    parked

device:                     // a byte for the console
    mov  x0, #0x09000000
    mov  w1, #'!'
    strb w1, [x0]
    ldr  w2, [x0, #0x18]
    b    finish

spin:                       // never ends by itself
    add  x5, x5, #1
    b    spin

own_break:                  // the guest's own BRK goes to its vector
    mov  x7, #1
    brk  #0x123
    mov  x7, #2
    b    finish

own_debug:                  // what the guest keeps in its debug registers
    mov  x0, #0x8000
    msr  mdscr_el1, x0
    mov  x1, #0x1000
    msr  dbgbvr0_el1, x1
    mrs  x2, mdscr_el1
    mrs  x3, dbgbvr0_el1
    mrs  x4, oslsr_el1
after_own_debug:
    b    finish

mmu:                        // VA 0x8000_0000 is PA 0x4000_0000, read-only
    mov  x0, #0xff
    msr  mair_el1, x0
    mov  x0, #0x3519         // 39 bits, 4 KiB granule, inner shareable write-back
    movk x0, #0x0080, lsl #16  // no TTBR1
    msr  tcr_el1, x0
    adr  x0, table
    msr  ttbr0_el1, x0
    isb
    mrs  x0, sctlr_el1
    orr  x0, x0, #1
    msr  sctlr_el1, x0
    isb
    adr  x0, mapped
    mov  x1, #0x40000000
    add  x0, x0, x1
    br   x0
mapped:
    nop
    mov  x8, #0x55
    nop
    b    .

    .balign 8
counter: .quad 0
flag:    .quad 0
    .balign 0x800
vectors:
    .space 0x200
vector_same:                // synchronous, from EL1 with SP_EL1
    mrs  x10, esr_el1
    mrs  x11, elr_el1
    add  x11, x11, #4
    msr  elr_el1, x11
    mrs  x12, spsr_el1
    eret
    .space 0x5e0
stack:
    .space 0x200
stack_top:
    .balign 0x1000
table:
    .quad 0x00000000
    .quad 0x40000701
    .quad 0x40000781
    .space 0xfe8
