// The conversation of the v4 drivers with RM, as their compiled code holds it (linux-clients.md 1 to 6): SMCCC calls whose
// X4..X17 have to survive, buffers at odd addresses of the kernel half, across pages that are not neighbours in memory.
// Each message is printed: "> " or "< ", then its bytes in hexadecimal.

        .include "guest.inc"

        .equ    HALF,           0xffffffc000000000
        .equ    SEND_VA,        HALF + 0x0ff9           // in pages 0 and 1
        .equ    RECEIVE_VA,     HALF + 0x2e01           // in pages 2 and 3
        .equ    LIMIT,          1024
        .equ    MSGQ_SEND,      0xc600801b
        .equ    MSGQ_RECEIVE,   0xc600801c
        .equ    YIELD,          0x603b
        .equ    EMPTY,          60
        .equ    BURST,          1000

_start: adr     x1, stack
        mov     sp, x1
        bl      find_link
        cmn     x0, #1
        b.eq    off
        mov     x19, x0                 // send
        mov     x20, x1                 // receive
        bl      mmu_on
        adr     x21, script
next:   ldrh    w22, [x21], #2          // bytes
        cbz     w22, off
        mov     x0, x22
        bl      say_it
        add     x21, x21, x22
        add     x21, x21, #1
        and     x21, x21, #~1
        b       next
off:    say     "end\n"
        psci    PSCI_SYSTEM_OFF

// say_it(): send the X22 bytes at X21, print them, print what comes until the reply
function say_it
        mov64   x24, SEND_VA
        mov     x0, #0
1:      ldrb    w1, [x21, x0]
        strb    w1, [x24, x0]
        add     x0, x0, #1
        cmp     x0, x22
        b.lo    1b
        say     "> "
        mov     x0, x24
        mov     x1, x22
        bl      puts_bytes

        mov64   x0, MSGQ_SEND
        mov     x1, x19
        mov     x2, x22
        mov     x3, x24
        bl      mark
        mov     x4, #1                  // push
        mov     x5, #0
        hvc     #0
        mov     x18, #1
        bl      check
        cbnz    x0, failed
        cmp     x1, #1                  // not ready: v4 would send it again
        b.ne    failed
2:      mov64   x0, MSGQ_RECEIVE
        mov     x1, x20
        mov64   x2, RECEIVE_VA
        mov     x3, #LIMIT
        bl      mark
        mov     x4, #0
        hvc     #0
        mov     x18, #0
        bl      check
        cmp     x0, #EMPTY
        b.ne    3f
        mov     x0, #0
        hvc     #YIELD
        b       2b
3:      cbnz    x0, failed
        mov     x25, x1
        mov     x26, x2
        say     "< "
        mov64   x0, RECEIVE_VA
        mov     x1, x25
        bl      puts_bytes
        mov64   x0, RECEIVE_VA
        ldrb    w1, [x0, #1]
        and     w1, w1, #3
        cmp     w1, #2
        b.ne    2b
        cbnz    x26, failed             // nothing may wait behind the reply
        return
failed: mov     x25, x0
        mov     x26, x1
        say     "failed: "
        mov     x0, x25
        bl      puthex
        say     " "
        mov     x0, x26
        bl      puthex
        say     "\n"
        b       off

// mark(): values in X6..X17 that a call has to leave alone
mark:   .irp    n, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
        movz    x\n, #0x5a00 + \n
        .endr
        ret

// check(X18 what X4 has to be): the marks are still there; X0..X3 stay
check:  cmp     x4, x18
        b.ne    1f
        cbnz    x5, 2f
        .irp    n, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
        movz    x18, #0x5a00 + \n
        cmp     x\n, x18
        b.ne    1f
        .endr
        ret
2:      cmp     x18, #0                 // X5 is no argument of a receive
        b.eq    3f
1:      say     "a register that the caller keeps was changed\n"
        b       off
3:      ret

// puts_bytes(X0 address, X1 count): in hexadecimal, and the end of the line
function puts_bytes
        mov     x2, x0
        add     x3, x0, x1
1:      cmp     x2, x3
        b.hs    2f
        ldrb    w4, [x2], #1
        lsr     w0, w4, #4
        bl      digit
        and     w0, w4, #15
        bl      digit
        b       1b
2:      mov     x0, #10
        bl      putc
        return

digit:  cmp     w0, #10
        add     w0, w0, #'0'
        b.lo    putc
        add     w0, w0, #'a' - '0' - 10
        b       putc

// mmu_on(): the lower half one to one, in two blocks of 1 GiB; the upper half's first four pages onto four pages that lie
// in reverse order with a gap between them
function mmu_on
        adr     x0, tables
        mov     x2, #0x401
        movk    x2, #0x60, lsl #48
        str     x2, [x0]
        mov64   x2, 0x40000705
        str     x2, [x0, #8]
        add     x1, x0, #0x1000         // level 1, 2 and 3 of the upper half
        add     x3, x0, #0x2000
        add     x4, x0, #0x3000
        orr     x2, x3, #3
        str     x2, [x1, #256 * 8]
        orr     x2, x4, #3
        str     x2, [x3]
        mov64   x2, 0x0060000000000707
        add     x5, x0, #0xa000
        mov     x6, #0
1:      orr     x7, x5, x2
        str     x7, [x4, x6, lsl #3]
        sub     x5, x5, #0x2000
        add     x6, x6, #1
        cmp     x6, #4
        b.ne    1b
        mov     x2, #0xff00
        msr     mair_el1, x2
        mov64   x2, 0x00000001b5193520  // 32-bit and 39-bit VAs, 4 KiB both, walks cached, 36-bit PAs
        msr     tcr_el1, x2
        msr     ttbr0_el1, x0
        msr     ttbr1_el1, x1
        isb
        mrs     x2, sctlr_el1
        mov     x3, #0x1005
        orr     x2, x2, x3
        msr     sctlr_el1, x2
        isb
        return

        .include "lib.inc"

        // message sequence, id, payload bytes: a request in one fragment, its length before it
        .macro  message, sequence, id, payload:vararg
        .balign 2
        .hword  2f - 1f
1:      .byte   0x21, 0x01
        .hword  \sequence
        .word   \id
        .ifnb   \payload
        .byte   \payload
        .endif
2:
        .endm

        .balign 2
script:
        message 0, 0x56000024, 0, 0, 0, 0                    // GET_VMID, with the four bytes that v4 adds
        message 1, 0x56000081, 0, 0, 0, 0                    // CONSOLE_OPEN self
        message 2, 0x56000081, 3, 0, 0, 0                    // CONSOLE_OPEN own VMID
        .balign 2                                               // CONSOLE_WRITE to self
        .hword  2f - 1f
1:      .byte   0x21, 0x01
        .hword  3
        .word   0x56000083
        .hword  0, 28
        .ascii  "hello from ttyGH0, 28 bytes\n"
2:      .balign 2                                               // CONSOLE_WRITE to the own VMID
        .hword  2f - 1f
1:      .byte   0x21, 0x01
        .hword  4
        .word   0x56000083
        .hword  3, 7
        .ascii  "answer\n"
2:      .balign 2                                               // the longest burst
        .hword  2f - 1f
1:      .byte   0x21, 0x01
        .hword  5
        .word   0x56000083
        .hword  0, BURST
        .fill   BURST / 4, 4, 0x64636261
2:      message 6, 0x56000082, 3, 0, 0, 0                    // CONSOLE_CLOSE
        .balign 2
        .hword  0

        .balign 16
        .space  4096
stack:
        .balign 0x1000
tables: .space  0xb000
